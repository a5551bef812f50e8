"""Ask for a GPU; where no node has one, say why and go on with the CPU."""

import hotbed
from hotbed.exception import UnplaceableError

app = hotbed.App("gpu-fallback")


@app.function(gpu="any", unplaceable="fail")
def on_gpu(x: int) -> str:
    return f"{x} on a GPU"


@app.function()
def on_cpu(x: int) -> str:
    return f"{x} on a CPU"


@app.local_entrypoint()
def main() -> None:
    try:
        print(on_gpu.remote(1))
    except UnplaceableError as error:
        print("no GPU:", error)
        print(on_cpu.remote(1))

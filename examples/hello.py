"""A function that runs in a container of its own: once, then over a thousand inputs."""

import hotbed

app = hotbed.App("hello")


@app.function(cpu=0.5, memory=256)
def square(x: int) -> int:
    return x * x


@app.local_entrypoint()
def main() -> None:
    print("7 squared:", square.remote(7))
    print("sum of the first 1000 squares:", sum(square.map(range(1000))))

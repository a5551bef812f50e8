"""Start work now, take its result later, by the call's id if need be."""

import hotbed

app = hotbed.App("spawn-later")


@app.function()
def add(a: int, b: int) -> int:
    return a + b


@app.local_entrypoint()
def main() -> None:
    calls = [add.spawn(i, 10) for i in range(3)]
    again = hotbed.FunctionCall.from_id(calls[0].object_id)
    print("by id:", again.get(timeout=60))
    print("all:", hotbed.FunctionCall.gather(*calls))

"""A function calls another one from inside its container."""

import hotbed

app = hotbed.App("nested-calls")


@app.function()
def square(x: int) -> int:
    return x * x


@app.function()
def sum_of_squares(n: int) -> int:
    return sum(square.map(range(n)))


@app.local_entrypoint()
def main() -> None:
    print("sum of squares:", sum_of_squares.remote(10))

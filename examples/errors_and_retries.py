"""What a caller sees when a function raises, and how attempts are repeated."""

import hotbed

app = hotbed.App("errors-and-retries")


@app.function()
def divide(a: int, b: int) -> float:
    return a / b


@app.function(retries=2)
def fails_always(x: int) -> int:
    print("attempt for", x)
    raise ValueError(f"{x} is never right")


@app.local_entrypoint()
def main() -> None:
    try:
        divide.remote(1, 0)
    except ZeroDivisionError as error:
        print("the exception itself comes back:", error)
    try:
        fails_always.remote(3)
    except ValueError as error:
        print("after three attempts:", error)
    results = list(divide.starmap([(4, 2), (1, 0), (9, 3)], return_exceptions=True))
    print("kept in the results:", [type(r).__name__ if isinstance(r, Exception) else r for r in results])

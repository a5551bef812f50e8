"""A generator whose items arrive as they are made, and an async function called from asyncio."""

import asyncio
from collections.abc import Iterator

import hotbed

app = hotbed.App("generators-and-async")


@app.function()
def countdown(start: int) -> Iterator[int]:
    yield from range(start, 0, -1)


@app.function()
async def double_later(x: int) -> int:
    await asyncio.sleep(0.05)
    return 2 * x


@app.local_entrypoint()
async def main() -> None:
    print("items:", [item async for item in countdown.remote_gen.aio(3)])
    print("together:", await asyncio.gather(*(double_later.remote.aio(x) for x in range(5))))

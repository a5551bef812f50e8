"""Run with: cd examples/local_package && hotbed run -m shapes.main"""

import hotbed
from shapes.area import rectangle

app = hotbed.App("local-package")


@app.function()
def area(width: float, height: float) -> float:
    return rectangle(width, height)


@app.local_entrypoint()
def main() -> None:
    print("area:", area.remote(3, 4))

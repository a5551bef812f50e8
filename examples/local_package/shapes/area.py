"""Code that a function imports."""


def rectangle(width: float, height: float) -> float:
    """The area of a rectangle, in the square of the sides' unit."""
    return width * height

"""Numbers as they stand in a sentence."""

from __future__ import annotations


def said(number: float) -> str:
    """A number in a sentence: two digits, a minus that is one.

    Example:
        >>> said(-2.0), said(-0.001)
        ('−2.00', '0.00')
    """
    text = f"{abs(number):.2f}"
    return f"−{text}" if number < 0 and float(text) else text


def remainder(number: float) -> str:
    """The size of a remainder: `0.02`, `2e-4`.

    Example:
        >>> remainder(-0.0213), remainder(2.2e-4), remainder(0.0)
        ('0.02', '2e-4', '0')
    """
    size = abs(number)
    if size >= 0.01 or size == 0:
        return f"{size:.2g}"
    mantissa, power = f"{size:.0e}".split("e")
    return f"{mantissa}e{int(power)}"

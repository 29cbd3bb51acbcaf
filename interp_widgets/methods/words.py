"""Numbers as they stand in a sentence."""

from __future__ import annotations

from decimal import ROUND_UP, Decimal


def said(number: float) -> str:
    """A number in a sentence: two digits, a minus that is one.

    Example:
        >>> said(-2.0), said(-0.001)
        ('−2.00', '0.00')
    """
    text = f"{abs(number):.2f}"
    return f"−{text}" if number < 0 and float(text) else text


def signed(number: float, form: str = ".2f") -> str:
    """A number with its sign, a minus that is one.

    Example:
        >>> signed(-2.0), signed(0.5, ".2g")
        ('−2.00', '+0.5')
    """
    return ("−" if number < 0 else "+") + f"{abs(number):{form}}"


def remainder(number: float) -> str:
    """The size of a remainder, rounded up so that it covers what it says: `0.022`, `3e-4`.

    Example:
        >>> remainder(-0.0213), remainder(2.2e-4), remainder(0.0)
        ('0.022', '3e-4', '0')
    """
    exact = Decimal(abs(number))
    if not exact:
        return "0"
    small = exact < Decimal("0.01")
    up = exact.quantize(Decimal(1).scaleb(exact.adjusted() - (not small)), ROUND_UP)
    if not small:
        return f"{float(up):g}"
    mantissa, power = f"{up:.0e}".split("e")
    return f"{mantissa}e{int(power)}"

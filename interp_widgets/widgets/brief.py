"""A value in a sentence, however long or deep it is."""

from __future__ import annotations

import reprlib
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 40
_REPR.maxlevel = 3
_REPR.maxdict = _REPR.maxlist = 4


def brief(value: Any) -> str:
    """A short `repr`; unlike a cut one, it costs nothing for a value of ten megabytes.

    Example:
        >>> brief("x" * 1_000_000)
        "'xxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxx'"
    """
    return _REPR.repr(value)

"""What other libraries read and write, in their formats and names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp_widgets.interop import circuitsvis as circuitsvis
    from interp_widgets.interop import saes as saes
else:

    def __getattr__(name: str) -> Any:
        """`interop.circuitsvis` and `interop.saes`, loaded when they are first named."""
        if name not in ("circuitsvis", "saes"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")

"""The code of each kind of view, held once for all views of the kind.

A page keeps every module that it has ever loaded. Were the code carried by every view, each run of a cell would leave 40 kB of it,
and what the page compiled of it, in the page for good.
"""

from __future__ import annotations

import threading

from interp_widgets.widgets.guard import Guarded, bundle

_HELD: dict[str, ViewCode] = {}
_LOCK = threading.RLock()


class ViewCode(Guarded):
    """A widget without a view that carries one bundle, and exports its `render` to the views of that kind.

    Args:
        name: the bundle's, such as `"head_ablation"`.
    """

    def __init__(self, name: str) -> None:
        self._esm = bundle(f"{name}.js")
        super().__init__()


def code_of(name: str) -> ViewCode:
    """The widget that holds a bundle, made when its first view opens, and again when a page has closed it.

    Example:
        >>> code_of("head_ablation") is code_of("head_ablation")  # doctest: +SKIP
        True
    """
    with _LOCK:
        held = _HELD.get(name)
        if held is None or held.comm is None:
            held = _HELD[name] = ViewCode(name)
        return held

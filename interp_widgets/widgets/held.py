"""The code of the session and of each kind of view: sent once for all views of a kind, loaded once by a page.

A page keeps every module that it has ever loaded. Were the code carried by every view, each run of a cell would leave 40 kB of it,
and what the page compiled of it, in the page for good; so would each session that is opened, and each restart.
"""

from __future__ import annotations

import threading

import traitlets

from interp_widgets.widgets.guard import Guarded, bundle, reloading

_HELD: dict[str, ViewCode] = {}
_LOCK = threading.RLock()


class Held(Guarded):
    """A widget without a view that holds one bundle and exports what the bundle's `initialize` gives.

    Args:
        name: the bundle's, such as `"head_ablation"`.
    """

    text = traitlets.Unicode().tag(sync=True)

    def __init__(self, name: str) -> None:
        if reloading():
            self._esm = bundle(f"{name}.js")  # carried by the widget itself, it is taken anew when the file is saved
            super().__init__()
        else:
            self._esm = bundle("held.js")
            super().__init__(text=bundle(f"{name}.js"))


class ViewCode(Held):
    """The code of one kind of view, which the views of that kind draw themselves by."""


def code_of(name: str) -> ViewCode:
    """The widget that holds a view's code, made when its first view opens, and again when a page has closed it.

    Example:
        >>> code_of("head_ablation") is code_of("head_ablation")  # doctest: +SKIP
        True
    """
    with _LOCK:
        held = _HELD.get(name)
        if held is None or held.comm is None:
            held = _HELD[name] = ViewCode(name)
        return held

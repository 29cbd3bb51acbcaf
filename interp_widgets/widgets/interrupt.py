"""What the kernel tells of its cells: the stop button stops the worker too, and a cell that has ended may have changed the model.

A signal reaches the main thread only, and the worker is another.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

_watching = False


def watch_cells(stop: Callable[[], None], ended: Callable[[], None]) -> None:
    """Call `stop` when the kernel is interrupted, in a cell or between cells, and `ended` after every cell that was not.

    Outside a kernel nothing is watched.

    In a cell, KeyboardInterrupt is the cell's, and `stop` is called when it has ended the cell. Between cells ipykernel ignores
    the signal; there, and only where it is ignored, a handler of ours takes its place.
    """
    global _watching  # noqa: PLW0603
    kernel = _kernel()
    if kernel is None or _watching:
        return
    _watching = True

    def cell_ended(result: Any) -> None:
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            stop()
        else:
            ended()

    def install() -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # In a thread of its own: a handler runs between any two instructions, maybe inside a lock that `stop` needs.
            signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=stop, daemon=True).start())

    kernel.shell.events.register("post_run_cell", cell_ended)
    loop = getattr(kernel, "io_loop", None)
    if loop is not None:
        loop.add_callback(install)  # later, on the main thread, between two requests


def _kernel() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    shell: Any = get_ipython()
    return getattr(shell, "kernel", None)

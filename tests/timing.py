"""Times on a machine that does other things too.

with Hiccups() as hiccups:
    late = measure()
assert late <= 0.05 + hiccups.allowed
"""

from __future__ import annotations

import threading
import time
from typing import Self

_NAP = 0.002
_THREADS = 3  # the one that asks, the one that hears it, and the one that notes the time may each be put aside once


class Hiccups:
    """How long a thread that only sleeps is put aside meanwhile: what other programs add to any time that is measured beside it.

    On a machine with nothing else to do that is a few milliseconds.

    Attributes:
        worst: the longest, in seconds.
    """

    def __init__(self) -> None:
        self.worst = 0.0
        self._stop = False
        self._thread = threading.Thread(target=self._nap, name="hiccups", daemon=True)

    def _nap(self) -> None:
        while not self._stop:
            began = time.monotonic()
            time.sleep(_NAP)
            self.worst = max(self.worst, time.monotonic() - began - _NAP)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    @property
    def allowed(self) -> float:
        """Seconds by which a measured time may exceed what it would be alone on the machine."""
        return _THREADS * self.worst

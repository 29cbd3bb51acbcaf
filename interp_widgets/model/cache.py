"""What is kept between runs, within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol


class Sized(Protocol):
    """Anything that knows its bytes."""

    @property
    def nbytes(self) -> int:
        """How many bytes are held."""
        ...


class ByteCache:
    """Least recently used entries go first when the budget is full; an entry above the budget is not kept.

    Args:
        budget: bytes.

    Example:
        >>> cache = ByteCache(100)
        >>> cache.get("a") is None
        True
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._entries: OrderedDict[Hashable, Sized] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}
        self._lock = threading.RLock()  # memory freed inside a block may come back here

    def get(self, key: Hashable) -> Sized | None:
        """The entry, marked as just used."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, value: Sized) -> None:
        """Keep `value`, dropping what was not used for longest."""
        size = value.nbytes
        with self._lock:
            self._entries.pop(key, None)
            self._bytes.pop(key, None)
            if size > self.budget:
                return
            self._entries[key], self._bytes[key] = value, size
            while sum(self._bytes.values()) > self.budget:
                old, _ = self._entries.popitem(last=False)
                del self._bytes[old]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        with self._lock:
            return sum(self._bytes.values())

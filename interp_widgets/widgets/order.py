"""Which wish holds when messages come late, twice or in another order."""

from __future__ import annotations

from collections import OrderedDict

_BARRIERS = frozenset({"clear", "undo", "redo", "set"})
_GROUP = frozenset({"ablate", "ablate_many", "strength", "vector", "mode"})
_CLIENTS = 64


class Order:
    """The newest sequence number of every client, by key; a wish older than it, or than a barrier, is dropped.

    Example:
        >>> order = Order()
        >>> order.fresh("a", 2, "head:L0H0", "ablate"), order.fresh("a", 1, "head:L0H0", "ablate")
        (True, False)
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._barrier: dict[str, int] = {}
        self.acks: dict[str, int] = {}

    def fresh(self, client: str, seq: int, key: str, name: str) -> bool:
        """Whether this wish holds; remembers it if so."""
        mine = self._client(client)
        self.acks[client] = max(seq, self.acks.get(client, 0))
        if seq <= mine.get(key, 0) or (name in _GROUP and seq < self._barrier.get(client, 0)):
            return False
        mine[key] = seq
        if name in _BARRIERS:
            self._barrier[client] = max(seq, self._barrier.get(client, 0))
        return True

    def fresh_sites(self, client: str, seq: int, sites: list[str]) -> list[str]:
        """Of the sites of a wish for many, those that no newer wish has spoken for."""
        mine = self._client(client)
        kept = [site for site in sites if seq > mine.get(f"head:{site}", 0)]
        for site in kept:
            mine[f"head:{site}"] = seq
        return kept

    def _client(self, client: str) -> dict[str, int]:
        mine = self._newest.setdefault(client, {})
        self._newest.move_to_end(client)
        while len(self._newest) > _CLIENTS:
            old, _ = self._newest.popitem(last=False)
            self.acks.pop(old, None)
            self._barrier.pop(old, None)
        return mine

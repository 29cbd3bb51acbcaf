"""Which wish holds when messages come late, twice or in another order: the result is that of the order in which they were made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

CLIENTS = 64
KEYS = 4096
SEEN = 4096
KEPT = 1024
WEIGHT = 20_000  # of all states that are kept: each holds the whole history as it was

Wish = TypeVar("Wish")
State = TypeVar("State")


@dataclass(frozen=True)
class Gap:
    """A step that was wished for and is not there yet, in the history as its user has it in mind.

    Attributes:
        of: the wish.
        place: that of the state which it comes after.
        undone: whether it was taken back again.
        last: whether nothing was done after it; what could be redone before it was wished for cannot any more.
    """

    of: object
    place: int
    undone: bool = False
    last: bool = True


Gaps = tuple[Gap, ...]


def undone(gaps: Gaps, place: int) -> tuple[Gaps, object] | None:
    """The gaps after an undo at `place`, and the wish that it takes back; None when that is a step which is there.

    Example:
        >>> undone((Gap("a question", 3),), 4) is None
        True
        >>> undone((Gap("a question", 3),), 3)[1]
        'a question'
    """
    at = next((n for n in reversed(range(len(gaps))) if not gaps[n].undone), None)
    if at is None or gaps[at].place != place:
        return None
    return (*gaps[:at], replace(gaps[at], undone=True), *gaps[at + 1 :]), gaps[at].of


def redone(gaps: Gaps, place: int) -> tuple[Gaps, object] | None:
    """The gaps after a redo at `place`, and the wish that it belongs to; None when it brings back a step which is there."""
    at = next((n for n, gap in enumerate(gaps) if gap.undone), None)
    if at is not None and gaps[at].place == place:
        return (*gaps[:at], replace(gaps[at], undone=False), *gaps[at + 1 :]), gaps[at].of
    if at is None and gaps and gaps[-1].last and gaps[-1].place == place:
        return gaps, gaps[-1].of  # after its step there is nothing to bring back
    return None


def stepped(gaps: Gaps) -> Gaps:
    """The gaps after a step: those that were taken back cannot be brought back any more."""
    return tuple(replace(gap, last=False) for gap in gaps if not gap.undone)


@dataclass(frozen=True)
class Done(Generic[Wish, State]):
    """A wish that was done: whose and which, the state before it and how much that holds, and the revision after it."""

    client: str
    seq: int
    wish: Wish
    before: State
    start: int
    end: int
    weight: int = 1


@dataclass
class Client:
    """What one page has sent.

    Attributes:
        floor: every sequence number up to here counts as seen.
        seen: those above it that were.
        newest: the largest one of every key.
        done: the largest one that was done.
        cut: the largest one that was done and is not remembered any more.
        ack: the largest one of all.
    """

    floor: int = 0
    seen: set[int] = field(default_factory=set[int])
    newest: OrderedDict[str, int] = field(default_factory=OrderedDict[str, int])
    done: int = 0
    cut: int = 0
    ack: int = 0

    def take(self, seq: int) -> bool:
        """Note a sequence number; False when it was there before."""
        if seq <= self.floor or seq in self.seen:
            return False
        self.ack = max(self.ack, seq)
        self.seen.add(seq)
        while self.floor + 1 in self.seen:
            self.floor += 1
            self.seen.discard(self.floor)
        if len(self.seen) > SEEN:
            self.floor = sorted(self.seen)[SEEN // 2]
            self.seen = {one for one in self.seen if one > self.floor}
        return True


class Order(Generic[Wish, State]):
    """The wishes of every page, and enough of the past to put a late one where it belongs.

    Example:
        >>> order = Order()
        >>> order.take("a", 2), order.take("a", 1), order.take("a", 2)
        (True, True, False)
        >>> order.newest("a", 2, ["head:L0H0"]), order.newest("a", 1, ["head:L0H0"])
        (['head:L0H0'], [])
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._done: list[Done[Wish, State]] = []

    @property
    def acks(self) -> dict[str, int]:
        """The newest sequence number of each client that was taken in, also when the wish was refused."""
        return {name: client.ack for name, client in list(self._clients.items())}

    def take(self, client: str, seq: int) -> bool:
        """Whether this message is not one that has been taken in before; remembers it."""
        return self._client(client).take(seq)

    def newest(self, client: str, seq: int, keys: list[str]) -> list[str]:
        """Of the things a wish speaks of, those that no newer wish of this client has spoken of; remembers them."""
        mine = self._client(client)
        kept = [key for key in keys if seq >= mine.newest.get(key, 0)]
        for key in kept:
            mine.newest[key] = seq
            mine.newest.move_to_end(key)
        while len(mine.newest) > KEYS:
            mine.newest.popitem(last=False)
        return kept

    def late(self, client: str, seq: int) -> bool:
        """Whether a wish made after this one has been done already."""
        return seq < self._client(client).done

    def after(self, client: str, seq: int, revision: int) -> list[Done[Wish, State]] | None:
        """The wishes to take back, and to do again after this late one, oldest first.

        None when that cannot be told: something else has changed the session since (it is not at `revision` because of
        wishes alone), or it is too long ago.
        """
        self._forget_unless(revision)
        if seq < self._client(client).cut:
            return None
        at = next((n for n, one in enumerate(self._done) if one.client == client and one.seq > seq), len(self._done))
        return self._done[at:]

    def since(self, wish: Wish, revision: int) -> list[Done[Wish, State]] | None:
        """This wish, and those after it, oldest first; None when it cannot be told any more which they are."""
        self._forget_unless(revision)
        at = next((n for n, one in enumerate(self._done) if one.wish is wish), None)
        return None if at is None else self._done[at:]

    def remove(self, gone: Callable[[Wish], bool]) -> None:
        """Forget wishes that have changed nothing."""
        self._done = [one for one in self._done if not gone(one.wish)]

    def did(self, done: Done[Wish, State]) -> None:
        """Remember a wish that was done last."""
        self._forget_unless(done.start)
        self._done.append(done)
        mine = self._client(done.client)
        mine.done = max(mine.done, done.seq)
        weight = sum(one.weight for one in self._done)
        while len(self._done) > KEPT or (weight > WEIGHT and len(self._done) > 1):
            oldest = self._done.pop(0)
            weight -= oldest.weight
            self._cut(oldest)

    def take_back(self, done: list[Done[Wish, State]], revision: int) -> None:
        """Forget the last wishes, which are about to be done again: what was before them is now `revision`."""
        del self._done[len(self._done) - len(done) :]
        if self._done:
            self._done[-1] = replace(self._done[-1], end=revision)

    def _forget_unless(self, revision: int) -> None:
        if self._done and self._done[-1].end != revision:
            for one in self._done:
                self._cut(one)
            self._done.clear()

    def _cut(self, one: Done[Wish, State]) -> None:
        mine = self._client(one.client)
        mine.cut = max(mine.cut, one.seq)

    def _client(self, name: str) -> Client:
        mine = self._clients.setdefault(name, Client())
        self._clients.move_to_end(name)
        while len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return mine

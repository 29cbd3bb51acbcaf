"""Which pages have opened a session, and which of them are looked at."""

from __future__ import annotations

import time

MOST = 64
LISTENING = 90.0


class Pages:
    """The pages by their own names.

    Example:
        >>> pages = Pages()
        >>> pages.came("a", listening=True)
        >>> pages.listened, pages.left("a"), pages.listened
        (True, True, False)
    """

    def __init__(self) -> None:
        self._here: set[str] = set()
        self._more = False  # pages that were not noted: nobody knows when the last of them has gone
        self._listening: dict[str, float] = {}

    def came(self, page: str, *, listening: object) -> None:
        """A page has opened, or opened again."""
        if len(self._here) < MOST:
            self._here.add(page)
        elif page not in self._here:
            self._more = True
        self.listens(page, on=listening)

    def listens(self, page: str, *, on: object) -> None:
        """A page is looked at, or hidden; it has to say so again, for one that vanishes says nothing."""
        self._listening.pop(page, None)
        if on is True and len(self._listening) < MOST:
            self._listening[page] = time.monotonic() + LISTENING

    def left(self, page: str) -> bool:
        """A page has gone; True when it was the last."""
        self._here.discard(page)
        self._listening.pop(page, None)
        return not self._here and not self._more

    @property
    def listened(self) -> bool:
        """Whether any page is looked at."""
        now = time.monotonic()
        return any(until > now for until in list(self._listening.values()))

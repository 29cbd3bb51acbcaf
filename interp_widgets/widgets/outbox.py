"""What leaves for the browser: strict JSON and buffers, the newest of each kind, at most 60 messages a second."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger("interp_widgets")
Json = dict[str, Any]
Send = Callable[[Json, list[bytes]], None]
Make = Callable[[], Json | list[Json] | None]

RATE = 50.0
BURST = 8
LIMIT = 1_000_000
IDLE = 5.0
BEAT = 0.5
PATIENCE = 1.0
BEATS, STATE = "beat", "state"
# A late beat is taken for the end; and the answer to a click is small, while tables that fill are not: it does not queue behind them.
FIRST: dict[Hashable, int] = {BEATS: 0, STATE: 1}


def pack(data: Any, buffers: list[bytes]) -> Any:
    """Arrays to buffers, everything else to strict JSON: no NaN, no lone surrogates, string keys."""
    if isinstance(data, np.ndarray):
        return _array(data, buffers)  # pyright: ignore[reportUnknownArgumentType]  (any dtype)
    if isinstance(data, dict):
        return {clean(str(k)): pack(v, buffers) for k, v in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(data, (list, tuple)):
        return [pack(v, buffers) for v in data]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, (bool, int)) or data is None:
        return data
    if isinstance(data, (float, np.floating)):
        number = float(data)  # pyright: ignore[reportUnknownArgumentType]
        return number if math.isfinite(number) else None
    if isinstance(data, np.integer):
        return int(data)  # pyright: ignore[reportUnknownArgumentType]
    raise TypeError(f"{type(data).__name__} cannot be sent to the browser.")


def _beat() -> Json:
    return {"kind": "beat"}


def clean(text: str) -> str:
    """Text that is valid UTF-8: half of a surrogate pair becomes the replacement character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _array(array: npt.NDArray[Any], buffers: list[bytes]) -> Json:
    kind = {"f": "float32", "i": "int32", "u": "uint8", "b": "uint8"}[array.dtype.kind]
    if str(array.dtype) in ("float16", "uint16"):
        kind = str(array.dtype)
    buffers.append(np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes())
    return {"$array": len(buffers) - 1, "dtype": kind, "shape": list(array.shape)}


class Sender:
    """The one thread that sends to pages, whoever made the message: never faster than the pages' server takes it.

    A message is made when its turn comes, so it tells the newest there is. Whoever has news leaves a note and goes on: a
    cell that is interrupted, or a slow socket, cannot tear a message or hold up a click.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # see `Worker`: a condition's own `with` is not safe from interrupts
        self._wake = threading.Condition(self._lock)
        self._waiting: dict[tuple[Outbox, Hashable], Make] = {}
        self._beating: dict[Outbox, Callable[[], bool]] = {}
        self._state_was_last = False
        self._saying: Outbox | None = None  # whose message is being made and sent
        self._thread: threading.Thread | None = None
        self._allowance = float(BURST)
        self._at = time.monotonic()
        self._pid = os.getpid()

    def put(self, box: Outbox, key: Hashable, make: Make) -> None:
        """Note one message; a newer one of the same key takes its place in the queue."""
        if self.forked:
            return  # a child must not speak on its parent's connection
        with self._lock:
            self._wake.notify_all()
            self._waiting[box, key] = make
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="interp_widgets sender", daemon=True)
                self._thread.start()

    def beat(self, box: Outbox, heard: Callable[[], bool]) -> None:
        """Say at least every `BEAT` seconds that this process lives, for as long as somebody listens."""
        if not self.forked:
            with self._lock:
                self._beating[box] = heard
            self.put(box, BEATS, _beat)

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that the page speaks to."""
        return self._pid != os.getpid()

    def take(self, box: Outbox) -> list[Make]:
        """Take everything of one box out of the queue; that of it which is being sent goes out before this returns.

        Unless that takes longer than `PATIENCE`: its making may wait for a lock that the caller holds.
        """
        with self._lock:
            keys = [key for key in self._waiting if key[0] is box]
            taken = [self._waiting.pop(key) for key in keys]
            if self._thread is not threading.current_thread():
                self._wake.wait_for(lambda: self._saying is not box, PATIENCE)
        return taken

    def _loop(self) -> None:
        while (taken := self._next()) is not None:
            self._wait_for_allowance()
            box, key = taken
            with self._lock:
                make, self._saying = self._waiting.pop((box, key), None), box
            if make is not None:
                self._allowance -= box.deliver(make)  # under no lock: what makes it waits for locks that users hold
            with self._lock:
                self._wake.notify_all()
                self._saying = None
            del taken, box, make

    def _next(self) -> tuple[Outbox, Hashable] | None:
        with self._lock:
            while True:
                pause = self._note_beats()
                if not self._waiting:
                    self._wake.wait_for(lambda: bool(self._waiting), IDLE if pause is None else pause)
                if self._waiting:
                    return self._first_of_all()
                if pause is None:
                    self._thread = None
                    return None

    def _first_of_all(self) -> tuple[Outbox, Hashable]:
        # A drag makes a state for each of its wishes: what else there is to say takes turns with them.
        others = [key for key in self._waiting if key[1] != STATE] if self._state_was_last else []
        first = min(others or self._waiting, key=lambda key: FIRST.get(key[1], len(FIRST)))
        if first[1] != BEATS:
            self._state_was_last = first[1] == STATE
        return first

    def _note_beats(self) -> float | None:
        """Note the beats that are due; seconds until the next one, None when nobody listens."""
        self._beating = {box: heard for box, heard in self._beating.items() if heard()}
        pauses = {box: box.spoke + BEAT - time.monotonic() for box in self._beating}
        for box, pause in pauses.items():
            if pause <= 0:
                self._waiting.setdefault((box, BEATS), _beat)
        return max(0.0, min(pauses.values())) if pauses else None

    def _wait_for_allowance(self) -> None:
        now = time.monotonic()
        self._allowance = min(float(BURST), self._allowance + (now - self._at) * RATE)
        if self._allowance < 1.0:
            pause = (1.0 - self._allowance) / RATE
            time.sleep(pause)
            now += pause
            self._allowance = 1.0
        self._at = now


_SENDER = Sender()


class Outbox:
    """One session's messages to its page: of each key the newest, in the order in which the keys first came.

    Args:
        send: puts one message on the wire; called on the sender's thread.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._ends = self._closed = False
        self.spoke = 0.0  # when the page last heard of us

    def put(self, key: Hashable, make: Make) -> None:
        """Send what `make` gives (a message, several, or None) when its turn comes; a newer `put` of its key replaces it."""
        if not self._ends:
            _SENDER.put(self, key, make)

    def later(self, job: Callable[[], None]) -> None:
        """Do `job` on the sender's thread, after what waits: for what must not be done wherever memory is freed."""
        _SENDER.put(self, object(), job)

    def beat(self, heard: Callable[[], bool]) -> None:
        """Let the page hear from us every half second while `heard()`, for it to notice when this process has ended."""
        if not self._ends:
            _SENDER.beat(self, lambda: not self._ends and heard())

    def close(self) -> None:
        """Send what waits, and nothing after: at once, on this thread, whatever locks it holds."""
        if self._closed or _SENDER.forked:
            return
        self._ends = True
        for make in _SENDER.take(self):
            self.deliver(make)
        self._closed = True

    def deliver(self, make: Make) -> int:
        """Make and send; how many messages it was. What goes wrong is logged, and does not stop the others."""
        if self._closed:
            return 0
        try:
            made = make()
            messages = made if isinstance(made, list) else [made] if made is not None else []
            if not messages or self._closed:
                return 0
            self.spoke = time.monotonic()
            for content in messages:
                self._post(content)
        except Exception:
            log.exception("a message to the page could not be made or sent")
            return 1
        return len(messages)

    def _post(self, content: Json) -> None:
        buffers: list[bytes] = []
        packed = pack(content, buffers)
        size = _size(packed, buffers)
        if size > LIMIT and (halves := _halves(content)):
            for half in halves:
                self._post(half)
            return
        if size > LIMIT:
            log.error("a message of %d bytes for %s is over the limit and was not sent", size, content.get("kind"))
            packed, buffers = _too_large(packed, size), []
        self._send(packed, buffers)


def _size(packed: Any, buffers: list[bytes]) -> int:
    return len(json.dumps(packed, allow_nan=False, ensure_ascii=False).encode()) + sum(map(len, buffers))


def _halves(content: Json) -> list[Json]:
    """The same as two messages, where what one view is told has several parts; the view is at its end with the second."""
    data = content.get("data") if content.get("kind") == "panel" else None
    if not isinstance(data, dict) or len(data) < 2:  # pyright: ignore[reportUnknownArgumentType]
        return []
    parts: list[tuple[str, Any]] = list(data.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    middle = len(parts) // 2
    return [
        {**content, "status": "partial", "data": dict(parts[:middle])},
        {**content, "data": dict(parts[middle:])},
    ]


def _too_large(content: Json, size: int) -> Json:
    """What is sent instead: the sentence, and of a state what every control needs."""
    message = f"This result is {size / 1e6:.1f} MB, over the 1 MB that one message may carry; ask for less."
    if content.get("kind") == "state":
        # Undo and Clear stay: they are the way back from what is too large.
        bare = {"interventions": [], "answer": None, "error": message}
        smaller = {**content, "state": {**content["state"], **bare}}
        if _size(smaller, []) <= LIMIT:
            return smaller
        bare |= {"question": None, "vectors": [], "history": {"items": [], "index": 0}}
        return {**content, "state": {**content["state"], **bare}}
    return {**content, "status": "failed", "message": message, "data": None}

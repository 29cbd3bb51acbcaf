"""What leaves for the browser: strict JSON and buffers, the newest of each kind, at most 60 messages a second."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger("interp_widgets")
Json = dict[str, Any]
Send = Callable[[Json, list[bytes]], None]

RATE = 50.0
BURST = 8
LIMIT = 1_000_000


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


def clean(text: str) -> str:
    """Text that is valid UTF-8: half of a surrogate pair becomes the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _array(array: npt.NDArray[Any], buffers: list[bytes]) -> Json:
    kind = {"f": "float32", "i": "int32", "u": "uint8", "b": "uint8"}[array.dtype.kind]
    if array.dtype == np.float16:
        kind = "float16"
    buffers.append(np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes())
    return {"$array": len(buffers) - 1, "dtype": kind, "shape": list(array.shape)}


class Outbox:
    """Sends at once while there is allowance, else keeps the newest message of each key and sends it as soon as it may.

    Args:
        send: puts one message on the wire; called under a lock, from any thread.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.RLock()
        self._waiting: dict[Hashable, Callable[[], Json | None]] = {}
        self._allowance = float(BURST)
        self._at = time.monotonic()
        self._timer: threading.Timer | None = None
        self._closed = False

    def put(self, key: Hashable, make: Callable[[], Json | None]) -> None:
        """Send what `make` gives when its turn comes; a newer `put` of the same key takes its place."""
        with self._lock:
            if self._closed:
                return
            self._waiting.pop(key, None)
            self._waiting[key] = make
            self._flush()

    def close(self) -> None:
        """Send what waits, and nothing after."""
        with self._lock:
            if self._closed:
                return
            self._allowance = float(len(self._waiting))
            self._flush()
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _flush(self) -> None:
        now = time.monotonic()
        self._allowance = min(float(BURST), self._allowance + (now - self._at) * RATE)
        self._at = now
        while self._waiting and self._allowance >= 1.0:
            key = next(iter(self._waiting))
            make = self._waiting.pop(key)
            content = make()
            if content is not None:
                self._allowance -= 1.0
                self._post(content)
        if self._waiting and self._timer is None:
            self._timer = threading.Timer((1.0 - self._allowance) / RATE + 1e-3, self._tick)
            self._timer.daemon = True
            self._timer.start()

    def _tick(self) -> None:
        with self._lock:
            self._timer = None
            if not self._closed:
                self._flush()

    def _post(self, content: Json) -> None:
        buffers: list[bytes] = []
        packed = pack(content, buffers)
        size = len(json.dumps(packed, allow_nan=False, ensure_ascii=False).encode()) + sum(map(len, buffers))
        if size > LIMIT:
            log.error("a message of %d bytes for %s is over the limit and was not sent", size, content.get("kind"))
            packed, buffers = _too_large(packed, size), []
        self._send(packed, buffers)


def _too_large(content: Json, size: int) -> Json:
    message = f"This result is {size / 1e6:.1f} MB, over the 1 MB that one message may carry; ask for less."
    return (
        {**content, "status": "failed", "message": message, "data": None} if content.get("kind") == "panel" else content
    )

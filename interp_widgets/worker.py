"""Who computes: one thread per live model, newest wish first, until cancelled."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count

from interp_widgets.model.errors import CancelledError
from interp_widgets.model.live import LiveModel

log = logging.getLogger("interp_widgets")
Cancelled = Callable[[], bool]
Job = Callable[[Cancelled], object]
_IDLE_SECONDS = 30.0
_EXIT_SECONDS = 2.0

ANSWER, PANEL, PREFETCH = 0, 1, 2


@dataclass(order=True)
class _Wish:
    priority: int
    order: int
    key: Hashable = field(compare=False)
    job: Job = field(compare=False)
    dropped: bool = field(compare=False, default=False)  # no Event: its own lock is not safe from interrupts
    preempted: bool = field(compare=False, default=False)


class Worker:
    """Runs jobs one after the other; of two jobs with one key only the newer runs.

    A job that runs is told to stop (`cancelled()`) when a newer wish of its key comes, when it is dropped, or when a more
    urgent job waits; in the last case it is run again afterwards. In a forked child it takes no wishes: the page that it
    would answer is the parent's.
    """

    def __init__(self) -> None:
        self._wishes: dict[Hashable, _Wish] = {}
        self._running: _Wish | None = None
        self._order = count()
        # Taken by `with self._lock`, never `with self._wake`: the interpreter itself releases a lock when an interrupt falls on the
        # main thread, while a condition's own Python code can be torn between its first line and the release.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closed = False
        _EVERY.add(self)

    def submit(self, key: Hashable, job: Job, priority: int = PANEL) -> None:
        """Wish for `job`; an older wish of the same key is dropped, also while it runs."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._wake.notify_all()  # first: whoever wakes has to wait for the lock, and an interrupt cannot lose the call
            self._start()
            self._drop(key)
            self._wishes[key] = _Wish(priority, next(self._order), key, job)

    def drop(self, key: Hashable) -> None:
        """Forget the wishes of this key, and stop the one that runs."""
        self.drop_where(lambda other: other == key)

    def drop_where(self, test: Callable[[Hashable], bool]) -> None:
        """Forget every wish whose key passes `test`, and stop the one that runs."""
        if self._pid != os.getpid():
            return
        with self._lock:
            running = [self._running.key] if self._running is not None else []
            for key in [*self._wishes, *running]:
                if test(key):
                    self._drop(key)
            self._wake.notify_all()

    def _drop(self, key: Hashable) -> None:
        wish = self._wishes.pop(key, None)
        if wish is not None:
            wish.dropped = True
        if self._running is not None and self._running.key == key:
            self._running.dropped = True

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        with self._lock:
            return self._running is not None or bool(self._wishes)

    def has(self, key: Hashable) -> bool:
        """Whether a wish of this key runs or waits."""
        return self.any(lambda other: other == key)

    def any(self, test: Callable[[Hashable], bool]) -> bool:
        """Whether a wish whose key passes `test` waits, or runs to its end: one that was dropped has none."""
        with self._lock:
            running = [self._running.key] if self._running is not None and not self._running.dropped else []
            return any(test(key) for key in [*self._wishes, *running])

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until nothing runs or waits; False when it took longer."""
        with self._lock:
            return self._wake.wait_for(lambda: self._running is None and not self._wishes, timeout)

    def close(self) -> None:
        """Stop what runs within one step, and end the thread."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            for key in list(self._wishes):
                self._drop(key)
            if self._running is not None:
                self._running.dropped = True
            self._wake.notify_all()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, at most this long."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._running = None
            self._thread = threading.Thread(target=self._loop, name="interp_widgets worker", daemon=True)
            self._thread.start()

    def _next(self) -> _Wish | None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return None  # whoever started us was interrupted before they knew it, and started another
            if not self._wishes and not self._closed:
                self._wake.wait_for(lambda: bool(self._wishes) or self._closed, _IDLE_SECONDS)
            if self._closed or not self._wishes:
                self._thread = None
                return None
            wish = min(self._wishes.values())
            del self._wishes[wish.key]
            wish.preempted = False
            self._running = wish
            return wish

    def _loop(self) -> None:
        while (wish := self._next()) is not None:
            try:
                wish.job(lambda w=wish: self._stopped(w))
            except CancelledError:
                if not wish.preempted and not wish.dropped:
                    log.exception("a computation stopped though nobody asked it to: %s", wish.key)
            except BaseException:  # what the user's own function raises, SystemExit too, must not end the thread
                wish.preempted = False
                log.exception("a computation failed: %s", wish.key)
            else:
                wish.preempted = False  # it came to its end all the same
            with self._lock:
                self._running = None
                if wish.preempted and not self._closed and wish.key not in self._wishes and not wish.dropped:
                    self._wishes[wish.key] = wish
                self._wake.notify_all()
            del wish

    def _stopped(self, wish: _Wish) -> bool:
        if wish.dropped:
            return True
        if any(other.priority < wish.priority for other in list(self._wishes.values())):
            wish.preempted = True
        return wish.preempted


_EVERY: weakref.WeakSet[Worker] = weakref.WeakSet()  # retired ones too, while their thread runs
_WORKERS: weakref.WeakKeyDictionary[LiveModel, Worker] = weakref.WeakKeyDictionary()
_workers_lock = threading.RLock()  # memory freed inside the block may retire another worker


def worker_of(live: LiveModel) -> Worker:
    """The worker of a model, made when first asked for."""
    with _workers_lock:
        worker = _WORKERS.get(live)
        if worker is None:
            worker = _WORKERS[live] = Worker()
        return worker


def workers() -> list[Worker]:
    """Every worker of this process."""
    with _workers_lock:
        return list(_WORKERS.values())


def retire_worker(live: LiveModel) -> None:
    """End a model's worker, when its last session closes."""
    with _workers_lock:
        worker = _WORKERS.pop(live, None)
    if worker is not None:
        worker.close()


@atexit.register
def _at_exit() -> None:
    """Stop what computes before the interpreter ends: a thread that is inside torch then would take the process down."""
    for worker in list(_EVERY):
        worker.close()
    for worker in list(_EVERY):
        worker.join(_EXIT_SECONDS)


def _after_fork() -> None:
    global _workers_lock  # noqa: PLW0603
    _workers_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""What holds for every test: offline, few threads, and a clock-free seed."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)


class NetworkUsedError(AssertionError):
    """A test, or what it calls, tried to leave this machine."""


def _stays_here(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a path: a Unix socket
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in {"localhost", ""}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine: nothing of ours, and no test, needs one."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: object) -> None:
        if not _stays_here(address):
            raise NetworkUsedError(f"a connection to {address!r} was attempted")
        connect(self, address)  # pyright: ignore[reportArgumentType]  # an address is whatever socket takes

    def guarded_ex(self: socket.socket, address: object) -> int:
        if not _stays_here(address):
            raise NetworkUsedError(f"a connection to {address!r} was attempted")
        return connect_ex(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_ex)


@pytest.fixture(autouse=True)
def same_seed() -> Iterator[None]:
    """Start every test from one random state and with gradients on, so that neither order nor one bad test changes others."""
    torch.manual_seed(0)
    torch.set_grad_enabled(True)
    yield
    assert torch.is_grad_enabled(), "the test left gradients switched off"
    assert torch.get_default_dtype() is torch.float32, "the test left another default dtype"


@pytest.fixture
def keep() -> Iterator[Callable[[Any], Any]]:
    """Take a model and give it back: the test fails unless it leaves that model and its hooks as they were."""
    from tests.invariants import compare, photograph

    kept: list[tuple[Any, Any]] = []

    def begin(model: Any) -> Any:
        kept.append((model, photograph(model)))
        return model

    yield begin
    for model, before in kept:
        compare(before, photograph(model), random=False)

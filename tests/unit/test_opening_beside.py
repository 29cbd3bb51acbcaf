"""Opening a model, and forking, while another thread is in the middle of something."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from interp_widgets.model import patterns
from interp_widgets.model.live import LiveModel
from interp_widgets.model.probe import probe_ids, record
from tests.invariants import our_hooks
from tests.unit.sweep_models import FAMILIES, opened

IDS = torch.tensor([[5, 9, 12, 5, 30, 7]])


def forward(module: Any) -> torch.Tensor:
    """The module's own logits."""
    with torch.no_grad():
        return module(IDS).logits


@contextmanager
def looped(module: Any, threads: int = 2) -> Generator[list[torch.Tensor | Exception]]:
    """Other threads run the module until the block ends, or for 3,000 forwards each: what they got."""
    got: list[torch.Tensor | Exception] = []
    stop, going = threading.Event(), threading.Event()

    def loop() -> None:
        for _ in range(3000):
            if stop.is_set():
                return
            try:
                got.append(forward(module))
            except Exception as error:  # noqa: BLE001  # what a user's thread would see
                got.append(error)
            going.set()

    running = [threading.Thread(target=loop) for _ in range(threads)]
    for thread in running:
        thread.start()
    assert going.wait(20)
    try:
        yield got
    finally:
        stop.set()
        for thread in running:
            thread.join(20)


def described(live: LiveModel) -> tuple[Any, ...]:
    """What opening found, without the measured errors."""
    anatomy = live.anatomy
    heads = [(layer.attention and layer.attention.n_heads, layer.carry) for layer in anatomy.layers]
    return heads, anatomy.gaps, anatomy.notes, sorted(anatomy.paths), live.report.off


@pytest.mark.case("F01")
@pytest.mark.parametrize("family", ["gpt2", "llama, grouped queries", "qwen2 moe"])
def test_a_model_that_another_thread_runs_is_opened_as_if_it_were_alone(family: str) -> None:
    with opened(FAMILIES[family]()) as live:
        expected = described(live)
    module = FAMILIES[family]()
    plain = forward(module)
    for _ in range(3):
        with looped(module) as got, opened(module) as live:
            assert described(live) == expected
        assert all(isinstance(one, torch.Tensor) and torch.equal(one, plain) for one in got)
    assert not our_hooks(module)


@pytest.mark.case("F01")
def test_a_recorded_forward_has_none_of_another_threads_calls() -> None:
    module = FAMILIES["gpt2"]()
    ids = probe_ids(module)
    alone = [call.name for call in record(module, ids).calls]
    done: list[int] = []

    def other(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not done:
            done.append(1)  # in the middle of our forward, a whole one of another thread
            thread = threading.Thread(target=lambda: forward(module))
            thread.start()
            thread.join(20)

    handle = module.transformer.h[1].register_forward_pre_hook(other)
    try:
        recording = record(module, ids)
    finally:
        handle.remove()
    assert done
    assert [call.name for call in recording.calls] == alone
    assert all(call.end > call.start for call in recording.calls)


@pytest.mark.case("F14")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_while_a_model_is_being_opened_can_wrap_attention_too() -> None:
    taken, go = threading.Event(), threading.Event()

    def hold() -> None:
        with patterns._LOCK:
            taken.set()
            go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(5)
    child = os.fork()
    if child == 0:
        signal.alarm(15)  # a child that hangs ends by this signal
        patterns.install("sdpa")
        patterns.remove("sdpa")
        os._exit(5)
    _, status = os.waitpid(child, 0)
    go.set()
    thread.join(20)
    assert os.waitstatus_to_exitcode(status) == 5

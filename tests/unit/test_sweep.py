"""The machinery of rows: every way of computing them gives the same, and memory that runs out halves the chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.methods.head_effects import head_effects
from interp_widgets.model import chunks, sweep
from interp_widgets.model.errors import CancelledError, InterpError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.rows import Base
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, ask, opened


def switch_off(live: LiveModel, *features: str) -> None:
    live.report = dataclasses.replace(
        live.report, off={**live.report.off, **dict.fromkeys(features, "switched off here")}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_born_inside_blocks_on_every_family(family: str) -> None:
    with opened(FAMILIES[family]()) as live:
        assert sweep.grows(live), live.report.off
        assert sweep.splits(live), live.report.off


@pytest.mark.parametrize(
    "off", [("split block",), ("read position only",), ("growing batch",), ("replay", "growing batch")]
)
@pytest.mark.parametrize("family", ["gpt2", "llama, grouped queries", "neox, parallel", "bloom, ALiBi", "qwen2 moe"])
def test_where_a_fast_way_is_off_the_slower_one_gives_the_same(family: str, off: tuple[str, ...]) -> None:
    with opened(FAMILIES[family]()) as live:
        asked = ask(live)
        fast = head_effects(live, asked, mode="mean")
        switch_off(live, *off)
        slow = head_effects(live, asked, mode="mean")
        np.testing.assert_allclose(slow.effects, fast.effects, atol=1e-4 * np.abs(fast.effects).max())
        np.testing.assert_allclose(slow.mlp, fast.mlp, atol=1e-4 * np.abs(fast.mlp).max())
        np.testing.assert_array_equal(slow.top, fast.top)


def test_rows_that_touch_each_other_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        asked = ask(live)
        expected = head_effects(live, asked, mode="zero")
        mix: Any = lambda _m, _a, out: out if out.shape[0] == 1 else out + out.mean(0, keepdim=True)  # noqa: E731
        module.transformer.h[1].mlp.register_forward_hook(mix)
        switch_off(live, "replay", "growing batch")
        table = head_effects(live, asked, mode="zero")
        np.testing.assert_allclose(table.effects, expected.effects, atol=1e-4 * np.abs(expected.effects).max())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("not enough memory: you tried to allocate")]
)
def test_memory_that_runs_out_halves_the_chunk_and_the_answer_still_comes(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        expected = head_effects(live, asked, mode="zero")
        real, tried = sweep.run_rows, list[int]()

        def small(live: LiveModel, base: Base, births: Sequence[sweep.Birth], *rest: Any) -> torch.Tensor:
            tried.append(sum(b.count for b in births))
            if tried[-1] > 3:
                raise error
            return real(live, base, births, *rest)

        monkeypatch.setattr(sweep, "run_rows", small)
        table = head_effects(live, asked, mode="zero")
        assert max(tried) > 3
        np.testing.assert_allclose(table.effects, expected.effects, atol=1e-5)


def test_when_not_even_one_row_fits_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tiny_models.gpt2()) as live:

        def never(*_: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(sweep, "run_rows", never)
        with pytest.raises(InterpError, match="not enough memory on cpu for one more row of 9 tokens"):
            head_effects(live, ask(live), mode="zero")


def test_another_error_of_torch_is_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tiny_models.gpt2()) as live:

        def broken(*_: Any) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(sweep, "run_rows", broken)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            head_effects(live, ask(live), mode="zero")


def test_a_small_budget_gives_more_chunks_and_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, steps = ask(live), list[float]()
        expected = head_effects(live, asked, mode="zero", progress=lambda _t, f: steps.append(f))
        monkeypatch.setattr(chunks, "CPU_BYTES", 1)
        again = list[float]()
        table = head_effects(live, asked, mode="zero", progress=lambda _t, f: again.append(f))
        assert len(steps) == 2
        assert len(again) == 15
        np.testing.assert_allclose(table.effects, expected.effects, atol=1e-5)


def test_a_sweep_that_is_stopped_ends_before_the_next_module_and_never_holds_more_rows_than_half_a_forward() -> None:
    model = tiny_models.gpt2(n_layer=12, n_embd=256, n_head=8, n_positions=256)
    with opened(model) as live:
        asked = ask(live, " ".join(f"w{3 + i % 40}" for i in range(250)))
        rows, after = list[int](), list[str]()
        stopped = False

        def seen(module: Any, args: Any) -> None:
            rows.append(args[0].numel() // (250 * 256))
            if stopped:
                after.append(type(module).__name__)

        handles = [
            m.register_forward_pre_hook(seen) for block in model.transformer.h for m in (block.attn, block.mlp.c_fc)
        ]

        def enough() -> bool:
            nonlocal stopped
            stopped = stopped or sum(1 for n in rows if n > 1) > 5
            return stopped

        try:
            with pytest.raises(CancelledError):
                head_effects(live, asked, mode="zero", cancelled=enough)
        finally:
            for handle in handles:
                handle.remove()
        assert 1 < max(rows) <= 6
        assert after == []


@pytest.mark.parametrize(("tokens", "width", "most"), [(1024, 1024, 6), (16, 1024, 16), (8, 16, 10_000)])
def test_as_many_rows_go_together_as_no_click_has_to_wait_for(tokens: int, width: int, most: int) -> None:
    with opened(tiny_models.gpt2(n_layer=12, n_embd=width, n_head=4, n_positions=32)) as live:
        found = chunks.patient(live, tokens)
        assert found <= most if most < 10_000 else found >= most


def test_chunks_hold_every_unit_once_the_last_layers_first() -> None:
    units = [(layer, h) for layer in range(7) for h in range(4)]
    found = chunks.chunked(units, lambda u: u[0], limit=9, first=(2, 1))
    assert found[0] == [(2, 1)]
    assert sorted(u for c in found for u in c) == units
    assert all(len(c) <= 9 for c in found)
    assert {u[0] for u in found[1]} == {6}
    assert all(c == sorted(c) for c in found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_rows_equal_one_by_one_within_the_noise_floor(dtype: torch.dtype) -> None:
    from interp_widgets.model.interventions import Ablate

    with opened(tiny_models.llama().to(dtype)) as live:
        asked = ask(live)
        table = head_effects(live, asked, mode="zero")
        for layer in range(3):
            for head in range(4):
                one = live.answer(asked, [Ablate(f"L{layer}H{head}", mode="zero")])
                off = abs(float(asked.metric.of(one.logits[None])[0]) - table.metrics[layer, head])
                assert off <= 2 * live.report.floor

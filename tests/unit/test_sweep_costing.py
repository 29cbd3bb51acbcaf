"""Before a long sweep its time is known, and one is asked."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interp_widgets.methods import head_effects as module
from interp_widgets.methods.head_effects import HeadEffects, head_effects
from interp_widgets.model.costing import Costing, row_cost
from tests.unit import tiny_models
from tests.unit.sweep_models import ask, opened


def test_rows_that_pass_more_blocks_cost_more() -> None:
    costs = [row_cost(layer, 12) for layer in range(12)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == pytest.approx(11.05)


def test_at_a_steady_rate_the_estimate_is_right_from_the_second_chunk_on() -> None:
    rows = [layer for layer in range(12) for _ in range(12)]
    costing = Costing(12, rows)
    real = sum(2.0 * row_cost(layer, 12) for layer in rows if layer < 11) + 1.0
    costing.add([11] * 12, 1.0)
    assert costing.seconds is None
    for layers in ((9, 10), (6, 7, 8), (3, 4, 5), (0, 1, 2)):
        chunk = [layer for layer in layers for _ in range(12)]
        costing.add(chunk, sum(2.0 * row_cost(layer, 12) for layer in chunk))
        assert costing.seconds == pytest.approx(real, rel=1e-2)
    assert costing.share == 1.0


def test_every_partial_table_says_how_long_it_will_take() -> None:
    with opened(tiny_models.gpt2(n_layer=5)) as live:
        seen: list[HeadEffects] = []
        head_effects(live, ask(live), mode="zero", progress=lambda t, _: seen.append(t))
        assert math.isnan(seen[0].estimate)
        assert all(t.estimate > 0 for t in seen[1:])


@pytest.mark.parametrize("answer", [True, False])
def test_a_long_sweep_asks_once_and_a_no_leaves_what_is_there(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(module, "ASK", 0.0)
    asked: list[float] = []

    def proceed(seconds: float) -> bool:
        asked.append(seconds)
        return answer

    with opened(tiny_models.gpt2(n_layer=7)) as live:
        table = head_effects(live, ask(live), mode="zero", proceed=proceed)
        assert len(asked) == 1
        assert asked[0] > 0
        assert table.done is answer
        assert np.isfinite(table.effects[6]).all()
        assert np.isfinite(table.effects[0]).all() == answer


def test_a_short_sweep_does_not_ask() -> None:
    def never(_seconds: float) -> bool:
        raise AssertionError

    with opened(tiny_models.gpt2()) as live:
        assert head_effects(live, ask(live), mode="zero", proceed=never).done

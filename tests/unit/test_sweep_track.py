"""A slider's track: every strength equals a click at that strength, whatever else is on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked
from interp_widgets.model.track import track
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, ask, opened

STRENGTHS = [-2.0, -1.0, -0.3, 0.0, 0.5, 1.0, 2.0]


def vector(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def clicked(live: LiveModel, asked: Asked, *interventions: Any) -> float:
    return float(asked.metric.of(live.answer(asked, interventions).logits[None])[0])


@pytest.mark.parametrize(
    ("site", "shape"),
    [
        ("embed", (32,)), ("L0", (32,)), ("L2", (32,)), ("L1.pre", (32,)), ("L1.mid", (32,)), ("L1.attn", (32,)),
        ("L2.mlp", (32,)), ("L1H2", (8,)), ("L1.heads", (4, 8)), ("L1.neurons", (128,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["add", "project_out", "clamp", "keep_norm"])
def test_every_point_is_what_a_click_at_that_strength_gives(site: str, shape: tuple[int, ...], mode: Any) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, v = ask(live), vector(*shape)
        found = track(live, asked, (), Steer(site, v, mode=mode), STRENGTHS)
        for i, strength in enumerate(STRENGTHS):
            own = clicked(live, asked, Steer(site, v, strength, mode=mode))
            assert found.rows.metric[i] == pytest.approx(own, abs=2e-5), strength


@pytest.mark.parametrize("family", FAMILIES)
def test_a_track_is_exact_on_every_family(family: str) -> None:
    with opened(FAMILIES[family]()) as live:
        asked, v = ask(live), vector(32)
        found = track(live, asked, (), Steer("L0", v), [-1.0, 1.0])
        for i, strength in enumerate([-1.0, 1.0]):
            assert found.rows.metric[i] == pytest.approx(clicked(live, asked, Steer("L0", v, strength)), abs=1e-4)


def test_at_strength_zero_the_stored_answer_stands() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        found = track(live, asked, (), Steer("L1", vector(32)), STRENGTHS, controls=2)
        zero = STRENGTHS.index(0.0)
        assert found.rows.metric[zero] == np.float32(clicked(live, asked))
        assert found.rows.kl[zero] == 0.0
        assert (found.controls[:, zero] == np.float32(clicked(live, asked))).all()


def test_the_vector_keeps_its_place_among_the_others_at_one_site() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, v, w = ask(live), vector(32), vector(3, 32)[1]
        steer, other = Steer("L1", v, 1.0), Steer("L1", w, 0.5, mode="keep_norm")
        for on in ([steer, other], [other, steer]):
            found = track(live, asked, [*on, Ablate("L2H1", mode="zero")], steer, [-1.0, 2.0])
            for i, strength in enumerate([-1.0, 2.0]):
                moved = [Steer("L1", v, strength) if x is steer else x for x in on]
                own = clicked(live, asked, *moved, Ablate("L2H1", mode="zero"))
                assert found.rows.metric[i] == pytest.approx(own, abs=2e-5)


def test_controls_are_random_vectors_of_the_same_length_the_same_for_a_seed() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, steer = ask(live), Steer("L1", vector(32))
        a = track(live, asked, (), steer, STRENGTHS, controls=8)
        b = track(live, asked, (), steer, STRENGTHS, controls=8)
        c = track(live, asked, (), steer, STRENGTHS, controls=8, seed=1)
        assert a.controls.shape == (8, len(STRENGTHS))
        np.testing.assert_array_equal(a.controls, b.controls)
        assert not np.allclose(a.controls, c.controls)
        assert len({float(x) for x in a.controls[:, 0]}) == 8
        random = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
        own = random[4] / random[4].norm() * vector(32).norm()
        assert a.controls[4, -1] == pytest.approx(clicked(live, asked, Steer("L1", own, 2.0)), abs=2e-5)


def test_positions_hold_for_every_row() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, v = ask(live), vector(32)
        for positions in ([2, 5], "all", -1):
            found = track(live, asked, (), Steer("L2.mlp", v, positions=positions), [1.5])
            own = clicked(live, asked, Steer("L2.mlp", v, 1.5, positions=positions))
            assert found.rows.metric[0] == pytest.approx(own, abs=2e-5)

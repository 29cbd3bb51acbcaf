"""Patching between two prompts: against plain hooks, one forward per cell, and by its identities."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import known
from interp_widgets.methods.patching import Patching, patching
from interp_widgets.model.errors import CancelledError, InterventionError, PromptError
from interp_widgets.model.interventions import Ablate, Patch
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric, Question
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, PROMPT, Plain, ask, opened

CORRUPT = "w4 w9 w2 w31 w11 w7 w5 w9 w2"  # differs at 3 and at 6


def ask_pair(live: LiveModel, corrupt: str = CORRUPT) -> Asked:
    return dataclasses.replace(ask(live), corrupt=live.tokens.encode(corrupt))


def swapped(asked: Asked) -> Asked:
    assert asked.corrupt is not None
    return dataclasses.replace(asked, tokens=asked.corrupt, corrupt=asked.tokens)


def plain_cell(plain: Plain, base: Asked, source: Asked, layer: int, position: int) -> float:
    """The source run's input of a block at one position put into the base run, by two plain hooks."""
    block = plain.live.anatomy.layers[layer].module
    caught: list[torch.Tensor] = []

    def catch(_m: Any, args: Any, kwargs: Any) -> None:
        caught.append(args[0].clone() if args else kwargs["hidden_states"].clone())

    def put(_m: Any, args: Any, kwargs: Any) -> Any:
        x = (args[0] if args else kwargs["hidden_states"]).clone()
        x[:, position] = caught[0][:, position]
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    module = plain.copy.get_submodule(plain.paths[block])
    for hook, asked in ((catch, source), (put, base)):
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        logits = plain.logits(asked)
        handle.remove()
    return float(base.metric.of(logits[None])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_the_stream_is_what_two_plain_hooks_find(family: str) -> None:
    module = FAMILIES[family]()
    with opened(module) as live:
        asked, plain = ask_pair(live), Plain(live, module)
        other = swapped(asked)
        found = patching(live, asked)
        assert found.denoise.shape == (3, 9)
        slack = 2e-6 * max(10.0, abs(found.clean), abs(found.corrupt))
        for layer in range(3):
            for position in (3, 4, 6, 8):
                denoised = plain_cell(plain, other, asked, layer, position)
                noised = plain_cell(plain, asked, other, layer, position)
                assert found.denoise_metrics[layer, position] == pytest.approx(denoised, abs=slack)
                assert found.noise_metrics[layer, position] == pytest.approx(noised, abs=slack)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_packed_from_their_position_on_are_verified_and_equal_to_whole_rows(family: str) -> None:
    with opened(FAMILIES[family]()) as live:
        if not family.startswith(
            "mpt"
        ):  # whose mask is True where one may *not* look: found by the check, and left whole
            assert "packed rows" not in live.report.off, live.report.off["packed rows"]
        asked = dataclasses.replace(ask_pair(live, "w14 w8 w12 w31 w21 w17 w5 w19 w22"), position=7)
        packed = patching(live, asked)
        live.report = dataclasses.replace(live.report, off={**live.report.off, "packed rows": "switched off here"})
        whole = patching(live, asked)
        slack = 2e-6 * max(10.0, abs(whole.clean), abs(whole.corrupt))
        np.testing.assert_allclose(packed.denoise_metrics, whole.denoise_metrics, atol=slack)
        np.testing.assert_allclose(packed.noise_metrics, whole.noise_metrics, atol=slack)
        np.testing.assert_allclose(packed.noise[:, 8], 0.0, atol=2 * packed.floor)  # after the read position


@pytest.mark.parametrize("build", [tiny_models.gpt2, tiny_models.llama])
def test_every_head_is_what_a_patch_of_that_head_alone_gives(build: Any) -> None:
    with opened(build()) as live:
        asked = ask_pair(live)
        found = patching(live, asked, over="heads")
        for layer in range(3):
            for head in range(4):
                one = live.answer(asked, [Patch(f"L{layer}H{head}", CORRUPT)])
                metric = float(asked.metric.of(one.logits[None])[0])
                assert found.noise_metrics[layer, head] == pytest.approx(metric, abs=2e-5)
                other = live.answer(swapped(asked), [Patch(f"L{layer}H{head}", PROMPT)])
                back = float(asked.metric.of(other.logits[None])[0])
                assert found.denoise_metrics[layer, head] == pytest.approx(back, abs=2e-5)


def test_shares_run_from_nothing_to_all_of_the_difference() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask_pair(live, "w4 w9 w2 w31 w11 w7 w4 w9 w2")  # one word differs
        found = patching(live, asked)
        assert found.denoise[0, 3] == pytest.approx(1.0, abs=1e-5)  # all that differs at the first block's input
        assert found.noise[0, 3] == pytest.approx(1.0, abs=1e-5)
        before_it, elsewhere = found.denoise[:, :3], found.denoise[0, 4:]
        assert (before_it == 0).all()
        assert (elsewhere == 0).all()
        assert (found.noise[:, :3] == 0).all()
        expected = (found.denoise_metrics - found.corrupt) / (found.clean - found.corrupt)
        np.testing.assert_allclose(found.denoise, expected, rtol=1e-6)


def test_swapping_the_prompts_swaps_the_directions() -> None:
    with opened(tiny_models.llama()) as live:
        asked = ask_pair(live)
        there, back = patching(live, asked), patching(live, swapped(asked))
        np.testing.assert_allclose(there.denoise_metrics, back.noise_metrics, atol=1e-5)
        assert there.clean == pytest.approx(back.corrupt, abs=1e-6)


def test_on_the_induction_circuit_the_answer_travels_by_its_two_heads() -> None:
    module, words, circuit = known("induction")
    live = open_model(module, words)
    try:
        corrupt = circuit.prompt.replace("dog bird", "dog star")
        target, foil = (live.tokens.one("target", t) for t in (circuit.target, circuit.foil))
        tokens = live.tokens.encode(circuit.prompt)
        metric = Metric((target.id,), (foil.id,))
        other = live.tokens.encode(corrupt)
        asked = Asked(circuit.prompt, tokens, metric, (target,), (foil,), len(tokens) - 1, other)
        heads = patching(live, asked, over="heads")
        assert heads.noise[1, 0] == pytest.approx(1.0, abs=1e-4)
        assert heads.denoise[1, 0] == pytest.approx(1.0, abs=1e-4)
        assert np.abs(heads.noise[1, 1:]).max() <= 1e-5
        stream = patching(live, asked)
        bird = 3  # <bos> cat dog bird
        assert stream.denoise[1, bird] == pytest.approx(1.0, abs=1e-4)
        assert np.abs(np.delete(stream.denoise[1], bird)).max() <= 1e-5
    finally:
        live.release()


def test_interventions_that_are_on_act_in_both_runs() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked, on = ask_pair(live), [Ablate("L1H2", mode="zero")]
        found = patching(live, asked, interventions=on)

        def metric(one: Asked, *more: Any) -> float:
            return float(one.metric.of(live.answer(one, [*on, *more]).logits[None])[0])

        assert found.clean == pytest.approx(metric(asked), abs=1e-6)
        assert found.corrupt == pytest.approx(metric(swapped(asked)), abs=1e-6)
        source = live.run(CORRUPT, on, read=["L0"])["L0"]
        patch = Patch("L0", source.tolist(), positions=[6])
        assert found.noise_metrics[1, 6] == pytest.approx(metric(asked, patch), abs=2e-5)


def test_a_prompt_set_gives_means() -> None:
    with opened(tiny_models.gpt2()) as live:
        one, two = ask_pair(live), swapped(ask_pair(live, "w4 w9 w2 w40 w11 w7 w4 w3 w2"))
        both = patching(live, Question((one, two)))
        single = [patching(live, a) for a in (one, two)]
        np.testing.assert_allclose(
            both.noise_metrics, (single[0].noise_metrics + single[1].noise_metrics) / 2, atol=1e-6
        )
        assert both.n == 2


def test_cells_come_from_the_last_layer_down() -> None:
    with opened(tiny_models.gpt2()) as live:
        seen: list[tuple[Patching, float]] = []
        final = patching(live, ask_pair(live), directions=["denoise"], progress=lambda p, f: seen.append((p, f)))
        first = np.isfinite(seen[0][0].denoise[:, 3:]).all(1)
        assert first.tolist() == [False, False, True]
        assert seen[-1][1] == 1.0
        assert np.isfinite(final.denoise).all()
        assert np.isnan(final.noise).all()


def test_a_cancelled_patching_stops() -> None:
    with opened(tiny_models.gpt2()) as live, pytest.raises(CancelledError):
        patching(live, ask_pair(live), cancelled=lambda: True)


@pytest.mark.parametrize(
    ("corrupt", "sentence"),
    [(None, "has no corrupt one"), ("w4 w9", "lines up token by token"), (PROMPT, "no difference to patch")],
)
def test_two_prompts_that_cannot_be_compared_are_refused_in_a_sentence(corrupt: str | None, sentence: str) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live) if corrupt is None else ask_pair(live, corrupt)
        with pytest.raises((PromptError, InterventionError), match=sentence):
            patching(live, asked)


def test_patching_over_what_is_not_there_names_what_is() -> None:
    with opened(tiny_models.gpt2()) as live, pytest.raises(InterventionError, match='"resid" or "heads"'):
        patching(live, ask_pair(live), over="neurons")  # pyright: ignore[reportArgumentType]


def test_the_cells_read_as_a_data_frame() -> None:
    with opened(tiny_models.gpt2()) as live:
        found = patching(live, ask_pair(live))
        frame = found.to_pandas()
        assert list(frame.columns[:2]) == ["layer", "position"]
        assert len(frame) == 27

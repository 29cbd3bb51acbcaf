"""What every head was worth: against a plain hook, one forward each, and against circuits with closed forms."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.builtin.known import known
from interp_widgets.methods.head_effects import HeadEffects, head_effects
from interp_widgets.model.errors import CancelledError, InterventionError, ModelChangedError
from interp_widgets.model.interventions import Ablate, Steer
from interp_widgets.model.live import open_model
from interp_widgets.model.question import Asked, Metric, Question
from interp_widgets.model.values import resolve
from tests.unit import tiny_models
from tests.unit.sweep_models import FAMILIES, Plain, ask, opened


def one_by_one(plain: Plain, asked: Asked, logits: Any) -> float:
    return float(asked.metric.of(logits[None])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_is_the_effect_that_a_plain_hook_finds(family: str) -> None:
    module = FAMILIES[family]()
    with opened(module) as live:
        asked, plain = ask(live), Plain(live, module)
        table = head_effects(live, asked, mode="zero")
        base = one_by_one(plain, asked, plain.logits(asked))
        expected = np.array(
            [[base - one_by_one(plain, asked, plain.without_head(asked, n, h)) for h in range(4)] for n in range(3)]
        )
        mlps = np.array([base - one_by_one(plain, asked, plain.without_mlp(asked, n)) for n in range(3)])
        scale = float(np.abs(expected).max())
        assert scale > 0.01
        np.testing.assert_allclose(table.effects, expected, atol=2e-6 * max(10.0, abs(base)))
        np.testing.assert_allclose(table.mlp, mlps, atol=2e-6 * max(10.0, abs(base)))
        assert table.baseline == pytest.approx(base, abs=1e-5)


@pytest.mark.parametrize("position", [3, 8])
@pytest.mark.parametrize("build", [tiny_models.gpt2, tiny_models.llama])
def test_a_row_keeps_the_metric_the_kl_the_rank_and_the_top_tokens(build: Any, position: int) -> None:
    module = build()
    with opened(module) as live:
        asked, plain = ask(live, position=position), Plain(live, module)
        table = head_effects(live, asked, mode="zero")
        before = plain.logits(asked).log_softmax(-1)
        for layer, head in ((0, 1), (1, 3), (2, 0)):
            logits = plain.without_head(asked, layer, head)
            after = logits.log_softmax(-1)
            at = (layer, head)
            assert table.metrics[at] == pytest.approx(float(logits[17] - logits[23]), abs=1e-5)
            assert table.kl[at] == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-5)
            assert table.ranks[at] == int((logits > logits[17]).sum()) + 1
            assert table.top[at].tolist() == logits.topk(5).indices.tolist()
            np.testing.assert_allclose(table.probabilities[at], after.exp().topk(5).values, atol=1e-5)
            assert table.chances[at] == pytest.approx(float(after[17].exp()), abs=1e-6)
        assert table.baseline_chance == pytest.approx(float(before[17].exp()), abs=1e-6)
        logits = plain.without_mlp(asked, 1)
        after = logits.log_softmax(-1)
        assert table.mlp_kl[1] == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-5)
        assert table.mlp_ranks[1] == int((logits > logits[17]).sum()) + 1
        assert table.mlp_chances[1] == pytest.approx(float(after[17].exp()), abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama, grouped queries", "mistral, sliding", "gptj, parallel"])
@pytest.mark.parametrize("where", [[2, 5], [-1], [0, 8]])
def test_at_chosen_positions_every_cell_is_what_the_one_row_path_gives(family: str, where: list[int]) -> None:
    with opened(FAMILIES[family]()) as live:
        asked = ask(live)
        table = head_effects(live, asked, mode="mean", positions=where)
        for layer, head in ((0, 1), (1, 3), (2, 0)):
            logits = live.answer(asked, [Ablate(f"L{layer}H{head}", positions=where)]).logits
            assert table.metrics[layer, head] == pytest.approx(float(logits[17] - logits[23]), abs=2e-5)
        logits = live.answer(asked, [Ablate("L2.mlp", positions=where)]).logits
        assert table.mlp_metrics[2] == pytest.approx(float(logits[17] - logits[23]), abs=2e-5)


def test_at_positions_before_the_last_block_reads_the_last_heads_are_worth_nothing() -> None:
    with opened(tiny_models.gpt2()) as live:
        table = head_effects(live, ask(live), mode="zero", positions=[1, 4])
        np.testing.assert_allclose(table.effects[-1], 0.0, atol=1e-6)
        assert np.abs(table.effects[0]).max() > 1e-3


def test_a_position_that_the_prompt_does_not_have_is_refused_in_a_sentence() -> None:
    with opened(tiny_models.gpt2()) as live, pytest.raises(InterventionError, match="Position 40 does not exist"):
        head_effects(live, ask(live), mode="zero", positions=[40])


def test_mean_ablation_puts_the_mean_over_the_reference_there() -> None:
    module = tiny_models.llama()
    with opened(module) as live:
        asked, plain = ask(live), Plain(live, module)
        table = head_effects(live, asked, mode="mean")
        mean = resolve(live, Ablate("L1.heads"), asked.tokens)
        assert mean is not None
        logits = plain.without_head(asked, 1, 2, mean[2])
        assert table.metrics[1, 2] == pytest.approx(one_by_one(plain, asked, logits), abs=1e-5)
        assert "some words" in table.reference
        assert table.mode == "mean"


def test_resampling_takes_the_other_prompts_activations_position_by_position() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        other = " ".join(reversed(asked.prompt.split()))
        table = head_effects(live, asked, mode="resample", reference=other)
        for site, value in (
            ("L0H2", table.metrics[0, 2]),
            ("L2H1", table.metrics[2, 1]),
            ("L2.mlp", table.mlp_metrics[2]),
        ):
            one = live.answer(asked, [Ablate(site, mode="resample", reference=other)])
            assert value == pytest.approx(float(asked.metric.of(one.logits[None])[0]), abs=1e-5)


def test_the_sweep_starts_from_the_state_on_screen() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        other = " ".join(reversed(asked.prompt.split()))
        on = [
            Steer("L0", torch.linspace(-1, 1, 32), 0.7),
            Ablate("L1H2", mode="zero"),
            Steer("L1.attn", torch.ones(32), 0.3),
            Ablate("L2H2", mode="resample", reference=other),
            Ablate("L2.mlp.3", mode="zero", positions=[5, 8]),
        ]
        table = head_effects(live, asked, on, mode="zero")

        def metric(*interventions: Any) -> float:
            return float(asked.metric.of(live.answer(asked, interventions).logits[None])[0])

        now = metric(*on)
        assert table.baseline == pytest.approx(now, abs=1e-6)
        for layer, head in ((0, 0), (1, 1), (2, 3)):
            effect = now - metric(*on, Ablate(f"L{layer}H{head}", mode="zero"))
            assert table.effects[layer, head] == pytest.approx(effect, abs=1e-5)


def test_the_effect_of_a_part_that_is_edited_is_counted_from_the_state_without_those_edits() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        other = Steer("L0", torch.linspace(-1, 1, 32), 0.7)
        off, cut, mlp = (
            Ablate("L1H2", mode="zero"),
            Ablate("L2H1", mode="edge", edge=(8, 3)),
            Ablate("L1.mlp", mode="zero"),
        )

        def metric(*interventions: Any) -> float:
            return float(asked.metric.of(live.answer(asked, interventions).logits[None])[0])

        table = head_effects(live, asked, [other, off, cut, mlp], mode="zero")
        off_worth = metric(other, cut, mlp) - metric(other, off, cut, mlp)
        assert table.effects[1, 2] == pytest.approx(off_worth, abs=1e-5)
        assert float(table.restored[1, 2].metric[0]) == pytest.approx(metric(other, cut, mlp), abs=1e-5)
        cut_worth = metric(other, off, mlp) - metric(other, off, mlp, Ablate("L2H1", mode="zero"))
        assert table.effects[2, 1] == pytest.approx(cut_worth, abs=1e-5)
        assert table.mlp[1] == pytest.approx(metric(other, off, cut) - metric(other, off, cut, mlp), abs=1e-5)
        assert sorted(table.restored) == [(1, -1), (1, 2), (2, 1)]


def test_a_layer_whose_heads_are_all_off_says_for_each_what_it_alone_would_bring_back() -> None:
    with opened(tiny_models.llama()) as live:
        asked = ask(live)
        table = head_effects(live, asked, [Ablate("L1.heads", mode="zero")], mode="zero")
        others = [Ablate(f"L1H{h}", mode="zero") for h in (0, 1, 3)]
        alone = float(asked.metric.of(live.answer(asked, others).logits[None])[0])
        assert float(table.restored[1, 2].metric[0]) == pytest.approx(alone, abs=1e-5)
        assert table.effects[1, 2] == pytest.approx(alone - table.baseline, abs=1e-5)


@pytest.mark.parametrize("name", ["induction", "induction-llama"])
def test_on_a_known_circuit_the_heads_that_matter_are_the_only_ones_with_an_effect(name: str) -> None:
    module, words, circuit = known(name)
    live = open_model(module, words)
    try:
        tokens = live.tokens.encode(circuit.prompt)
        target, foil = (live.tokens.one("target", t) for t in (circuit.target, circuit.foil))
        asked = Asked(circuit.prompt, tokens, Metric((target.id,), (foil.id,)), (target,), (foil,), len(tokens) - 1)
        table = head_effects(live, asked, mode="zero")
        plain = circuit.answers["plain"]
        assert table.baseline == pytest.approx(plain, rel=1e-5)
        for site, metric in circuit.answers.items():
            if site.startswith("zero:L") and "H" in site:
                layer, head = (int(n) for n in site.removeprefix("zero:L").split("H"))
                assert table.effects[layer, head] == pytest.approx(plain - metric, abs=1e-3)
                if metric == plain:
                    assert abs(table.effects[layer, head]) <= 1e-5
    finally:
        live.release()


def test_cells_are_painted_from_the_last_layer_down_the_hovered_head_first() -> None:
    with opened(tiny_models.gpt2(n_layer=4)) as live:
        seen: list[tuple[HeadEffects, float]] = []
        final = head_effects(live, ask(live), mode="zero", first=(1, 2), progress=lambda t, f: seen.append((t, f)))
        first = seen[0][0]
        assert np.argwhere(np.isfinite(first.effects)).tolist() == [[1, 2]]
        painted: Any = [np.isfinite(t.effects).all(-1).tolist() for t, _ in seen[1:]]
        for earlier, later in pairwise(painted):
            assert all(not before or after for before, after in zip(earlier, later, strict=True))
        assert painted[0] == [False, False, False, True]
        assert [f for _, f in seen] == sorted(f for _, f in seen)
        assert seen[-1][1] == 1.0
        assert np.isfinite(final.effects).all()
        for table, _ in seen:
            known_cells = np.isfinite(table.effects)
            np.testing.assert_array_equal(table.effects[known_cells], final.effects[known_cells])


def test_a_cancelled_sweep_stops_between_blocks_and_leaves_the_model_plain() -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        asked = ask(live)
        before = live.answer(asked).logits.clone()
        calls: list[int] = []

        def cancelled() -> bool:
            calls.append(1)
            return len(calls) > 3

        with pytest.raises(CancelledError):
            head_effects(live, asked, mode="zero", cancelled=cancelled)
        live.refresh()
        assert torch.equal(live.answer(asked).logits, before)


@pytest.mark.parametrize("through", ["data", "in place", "hook"])
def test_weights_or_hooks_changed_in_the_middle_stop_the_sweep_with_a_sentence(through: str) -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:

        def progress(_table: HeadEffects, _done: float) -> None:
            weight = module.transformer.h[0].mlp.c_fc.weight
            if through == "data":
                weight.data.add_(0.1)
            elif through == "in place":
                with torch.no_grad():
                    weight.add_(0.1)
            else:
                module.transformer.h[0].register_forward_hook(lambda _m, _a, out: out)

        with pytest.raises(ModelChangedError, match="ask again"):
            head_effects(live, ask(live), mode="zero", progress=progress)


def test_a_prompt_set_gives_the_mean_over_its_examples_and_each_of_them() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = [ask(live), ask(live, "w8 w8 w3 w40 w2")]
        both = head_effects(live, Question(tuple(asked)), mode="zero")
        single = [head_effects(live, a, mode="zero") for a in asked]
        np.testing.assert_allclose(both.effects, (single[0].effects + single[1].effects) / 2, atol=1e-6)
        np.testing.assert_array_equal(both.each, np.stack([t.effects for t in single]))
        assert both.n == 2


def test_several_targets_and_a_metric_of_ones_own_are_read_from_every_row() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)

        def third(logits: torch.Tensor) -> float:
            return float(logits.softmax(-1)[3])

        for metric in (Metric((17, 18), (23,)), Metric((17,)), Metric((17,), fn=third)):
            own = Asked(asked.prompt, asked.tokens, metric, asked.target, asked.foil, asked.position)
            table = head_effects(live, own, mode="zero")
            one = live.answer(own, [Ablate("L1H1", mode="zero")])
            assert table.metrics[1, 1] == pytest.approx(float(metric.of(one.logits[None])[0]), abs=1e-5)


def test_the_table_reads_as_a_data_frame() -> None:
    with opened(tiny_models.gpt2()) as live:
        table = head_effects(live, ask(live), mode="zero")
        frame = table.to_pandas()
        assert len(frame) == 3 * 4 + 3
        row = frame[(frame["layer"] == 1) & (frame["head"] == 3)].iloc[0]
        assert row["effect"] == table.effects[1, 3]

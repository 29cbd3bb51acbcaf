"""Sweeps over prompt sets and over draws, and what is read at every position: each number against plain hooks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import interp_widgets as iw
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.methods.position_effects import position_effects
from tests.unit import tiny_models
from tests.unit.page import PROMPT
from tests.unit.test_head_ablation import Script

OTHERS = ["w5 w9 w13 w5 w31 w8", "w1 w2", "w2 w3 w4 w5 w6 w7", PROMPT, "w40 w9 w12 w41 w30 w7"]
LINED_UP = [OTHERS[0], OTHERS[2], OTHERS[4]]
LAYERS, HEADS = 3, 4
TARGET, FOIL = 11, 13


@dataclass
class Bench:
    session: iw.Session
    model: Any

    def script(self, prompt: str) -> Script:
        return Script(self.model, self.ids(prompt))

    def ids(self, prompt: str) -> list[int]:
        return [t.id for t in self.session.model.tokens.encode(prompt)]


@pytest.fixture(params=["gpt2", "llama"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    model = {"gpt2": tiny_models.gpt2, "llama": tiny_models.llama}[request.param]()
    plain = copy.deepcopy(model)
    session = iw.open(model, tiny_models.tokenizer())
    session.ask(PROMPT, target="w11", foil="w13")
    yield Bench(session, plain)
    session.close()


def metric(logits: torch.Tensor) -> float:
    return float(logits[TARGET] - logits[FOIL])


def rank(logits: torch.Tensor) -> int:
    return int((logits > logits[TARGET]).sum()) + 1


def chance(logits: torch.Tensor) -> float:
    return float(logits.softmax(-1)[TARGET])


def divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def test_several_draws_give_the_mean_effect_and_how_far_they_lie_apart(bench: Bench) -> None:
    live, question = bench.session.model, bench.session.question
    assert question is not None
    table = head_effects(live, question, mode="resample", reference=OTHERS, draws=8)
    script = bench.script(PROMPT)
    base = metric(script.logits(script.ids))
    assert table.n_draws == 3, "prompts of other lengths, and the question itself, are no draws"
    for layer, head in np.ndindex(LAYERS, HEADS):
        values = [script.value("resample", layer, head, [bench.ids(other)]) for other in LINED_UP]
        effects = [base - metric(script.without(layer, head, value)) for value in values]
        assert table.effects[layer, head] == pytest.approx(np.mean(effects), abs=1e-4)
        assert table.spread[layer, head] == pytest.approx(np.std(effects, ddof=1), abs=1e-4)
        assert table.metrics[layer, head] == pytest.approx(base - effects[0], abs=1e-4)
    bench.session.reference = OTHERS
    bench.session.toggle("L1H2", mode="resample")
    assert bench.session.answer.metric == pytest.approx(float(table.metrics[1, 2]), abs=1e-5)


def test_one_draw_has_no_spread_and_too_many_or_none_are_refused_in_a_sentence(bench: Bench) -> None:
    live, question = bench.session.model, bench.session.question
    assert question is not None
    assert np.isnan(head_effects(live, question, mode="resample", reference=OTHERS[0], draws=4).spread).all()
    for draws in (0, 65, True):
        with pytest.raises(iw.InterventionError, match="1 to 64 draws"):
            head_effects(live, question, mode="resample", reference=OTHERS, draws=draws)
    with pytest.raises(iw.InterventionError, match="2 prompts .* have 1 to 3 tokens, none of them the question's 6"):
        head_effects(live, question, mode="resample", reference=["w1", "w1 w2 w3"], draws=4)


def test_every_example_is_resampled_from_the_corrupt_prompt_that_was_written_for_it(bench: Bench) -> None:
    pairs = [(PROMPT, OTHERS[0]), ("w1 w2 w3", "w1 w4 w3")]
    question = bench.session.ask([iw.Example(clean, "w11", "w13", corrupt=other) for clean, other in pairs])
    bench.session.toggle("L1H2", mode="resample")
    table = head_effects(bench.session.model, question, (), "resample", bench.session.reference)
    for i, (clean, other) in enumerate(pairs):
        script = bench.script(clean)
        logits = script.without(1, 2, script.value("resample", 1, 2, [bench.ids(other)]))
        assert bench.session.answer.values[i] == pytest.approx(metric(logits), abs=1e-4)
        assert table.examples[i].metrics[1, 2] == pytest.approx(metric(logits), abs=1e-4)


@pytest.mark.parametrize("off", [False, True], ids=["plain", "a head is off"])
def test_over_a_prompt_set_every_reading_is_the_mean_of_what_plain_hooks_give(bench: Bench, off: bool) -> None:
    prompts = [PROMPT, "w8 w8 w3 w40 w2", "w30 w31 w30 w31"]
    question = bench.session.ask([iw.Example(p, "w11", "w13") for p in prompts])
    on = [iw.Ablate("L1H2", mode="zero")] if off else []
    table = head_effects(bench.session.model, question, on, mode="zero")
    found: dict[str, list[float]] = {"effect": [], "chance": [], "rank": [], "KL": []}
    for prompt in prompts:
        script = bench.script(prompt)
        with_it, without = script.logits(script.ids), script.without(1, 2, 0.0)
        found["effect"].append(metric(with_it) - metric(without))
        found["chance"].append(chance(with_it) - chance(without))
        found["rank"].append(rank(without) - rank(with_it))
        found["KL"].append(divergence(with_it, without))
    at = (1, 2)
    assert table.effects[at] == pytest.approx(np.mean(found["effect"]), abs=1e-4)
    assert table.lost("chance")[0][at] == pytest.approx(np.mean(found["chance"]), abs=1e-4)
    assert table.lost("rank")[0][at] == pytest.approx(np.mean(found["rank"]), abs=1e-6)
    assert table.kl[at] == pytest.approx(np.mean(found["KL"]), abs=1e-4)
    for i, example in enumerate(table.examples):
        assert example.effects[at] == pytest.approx(found["effect"][i], abs=1e-4)
        assert example.kl[at] == pytest.approx(found["KL"][i], abs=1e-4)
        assert example.lost("rank")[0][at] == found["rank"][i]
    assert np.isfinite(table.lost("chance")[1]).all()
    assert np.isfinite(table.mlp_kl).all()


def test_the_answer_to_a_prompt_set_is_the_mean_of_every_reading(bench: Bench) -> None:
    prompts = [PROMPT, "w8 w8 w3 w40 w2"]
    bench.session.ask([iw.Example(p, "w11", "w13") for p in prompts])
    bench.session.toggle("L0H1", mode="zero")
    answer = bench.session.answer
    scripts = [bench.script(p) for p in prompts]
    edited = [s.without(0, 1, 0.0) for s in scripts]
    assert answer.ranks == tuple(rank(e) for e in edited)
    assert answer.rank == pytest.approx(np.mean(answer.ranks))
    assert answer.target_probability == pytest.approx(np.mean([chance(e) for e in edited]), abs=1e-5)
    kls = [divergence(s.logits(s.ids), e) for s, e in zip(scripts, edited, strict=True)]
    assert answer.kls == pytest.approx(kls, abs=1e-4)
    assert answer.kl == pytest.approx(np.mean(kls), abs=1e-4)


def test_what_is_read_at_every_position_is_what_plain_hooks_give_there(bench: Bench) -> None:
    live, question = bench.session.model, bench.session.question
    assert question is not None
    found = position_effects(live, question, [iw.Ablate("L1H2", mode="zero", positions=[3, 4, 5])])
    script = bench.script(PROMPT)

    def everywhere(off: bool) -> torch.Tensor:
        width = 8

        def cut(_module: Any, args: Any) -> Any:
            x = args[0].clone()
            x[:, 3:, 2 * width : 3 * width] = 0
            return (x,)

        handle = script.projection(1).register_forward_pre_hook(cut) if off else None
        with torch.no_grad():
            logits = script.model(torch.tensor([script.ids]), use_cache=False).logits[0].float()
        if handle is not None:
            handle.remove()
        return logits

    plain, edited = everywhere(off=False), everywhere(off=True)
    for position in range(6):
        assert found.plain[position] == pytest.approx(metric(plain[position]), abs=1e-4)
        assert found.edited[position] == pytest.approx(metric(edited[position]), abs=1e-4)
        assert found.kl[position] == pytest.approx(divergence(plain[position], edited[position]), abs=1e-4)
    assert (found.change[:3] == 0).all()
    assert (found.kl[:3] == 0).all()
    assert (found.kl[3:] > 0).all()
    bench.session.set(iw.Ablate("L1H2", mode="zero", positions=[3, 4, 5]))
    assert found.edited[-1] == pytest.approx(bench.session.answer.metric, abs=1e-4)

"""The last block at the read position alone: the same gradients for less, and only where that was seen on this model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp_widgets.methods import read_alone
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.baselines import find_baseline
from interp_widgets.methods.explained import explained
from interp_widgets.methods.gradients import Path, integrated_gradients
from interp_widgets.model.interventions import Ablate, Intervention, Steer
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked, Metric
from tests import architectures, matrix
from tests.unit.attribution_models import asked, model, tokenizer

# Learned, rotary and no positions; parallel blocks, norms behind attention, grouped heads, windows, experts, gates.
ALONE = (
    "gpt2",
    "gpt_neox",
    "qwen3",
    "mistral",
    "olmo2",
    "cohere",
    "phi",
    "mixtral",
    "starcoder2",
    "gemma3_text",
    "opt",
)
WHOLE = ("bloom", "gptj", "falcon", "mamba")  # attention of their own, or none


def opened(name: str) -> LiveModel:
    built = architectures.build(name).model
    assert built is not None
    with architectures.quiet():
        return open_model(built, matrix.tokenizer(architectures.VOCAB))


def random_question(live: LiveModel, length: int = 11, position: int = 10) -> Asked:
    ids = torch.randint(20, architectures.VOCAB, (length,), generator=torch.Generator().manual_seed(5)).tolist()
    return Asked("", live.tokens.encode(ids), Metric((30, 31), (40,)), (), (), position)


def path_of(live: LiveModel, question: Asked, on: tuple[Intervention, ...] = (), steps: int = 8) -> Path:
    return integrated_gradients(explained(live, question, on), find_baseline(live, question, "mean"), steps)


def seen(live: LiveModel) -> Any:
    return live.cache.get(("last block alone", live.fingerprint()))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs without the short cut."""

    def run(live: LiveModel, question: Asked, on: tuple[Intervention, ...] = ()) -> Path:
        with monkeypatch.context() as here:
            here.setattr(read_alone, "MANY", 10**9)
            return path_of(live, question, on)

    return run


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("position", [10, 6])
def test_the_last_block_alone_gives_the_scores_of_the_whole_forward(name: str, position: int, whole: Any) -> None:
    live = opened(name)
    question = random_question(live, position=position)
    alone, expected = path_of(live, question), whole(live, question)
    assert seen(live).equal
    np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-6 * max(1.0, np.abs(expected.scores).max()))
    assert (alone.scores[position + 1 :] == 0).all()
    live.release()


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_whose_last_block_cannot_be_called_so_is_run_whole(name: str, whole: Any) -> None:
    live = opened(name)
    question = random_question(live)
    found, expected = path_of(live, question), whole(live, question)
    assert seen(live) is None or not seen(live).equal
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    live.release()


def test_edits_below_the_last_block_are_explained_alone_and_edits_in_it_whole(
    whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = open_model(model("llama"), tokenizer())
    question = asked(live)
    used: list[bool] = []
    real = read_alone.reads_alone

    def spy(*args: Any) -> bool:
        used.append(real(*args))
        return used[-1]

    monkeypatch.setattr(read_alone, "reads_alone", spy)
    below = (Ablate("L1H1", mode="zero"), Steer("L0", torch.linspace(-1, 1, 48).tolist(), 2.0))
    for on, alone in ((below, True), ((Ablate("L2H0", mode="zero"),), False), ((Steer("L1", [0.3] * 48),), False)):
        used.clear()
        found = path_of(live, question, on)
        assert used == [alone]
        np.testing.assert_allclose(found.scores, whole(live, question, on).scores, atol=2e-6)
    live.release()


def test_a_block_that_answers_otherwise_when_it_is_called_alone_is_found_out(
    whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a block of one's own may: it looks at how many positions it is given."""
    built = model("llama")
    last = built.model.layers[-1]
    own = type(last).forward

    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = own(self, hidden_states, *args, **kwargs)
        return out + 0.02 * hidden_states.shape[1] if self is last else out

    monkeypatch.setattr(type(last), "forward", forward)
    live = open_model(built, tokenizer())
    question = asked(live)
    found = path_of(live, question)
    assert not seen(live).equal
    np.testing.assert_allclose(found.scores, whole(live, question).scores, atol=1e-6)
    live.release()


def test_a_longer_prompt_is_looked_at_again_and_a_shorter_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    live = opened("mistral")
    looked: list[int] = []
    real = read_alone._same

    def spy(what: Any, once: Any) -> bool:
        looked.append(len(what.tokens))
        return real(what, once)

    monkeypatch.setattr(read_alone, "_same", spy)
    for length in (11, 9, 11, 40, 40):  # 40 is beyond the window of 32
        path_of(live, random_question(live, length, length - 1))
    assert looked == [11, 40]
    assert seen(live).equal
    live.release()


def test_a_users_hook_in_the_last_block_is_part_of_the_model(whole: Any) -> None:
    built = model("gpt2")
    handle = built.transformer.h[-1].mlp.register_forward_hook(lambda _m, _a, out: 0.5 * out)
    live = open_model(built, tokenizer())
    question = asked(live)
    np.testing.assert_allclose(path_of(live, question).scores, whole(live, question).scores, atol=1e-6)
    handle.remove()
    plain = path_of(live, question)
    assert np.abs(plain.scores - whole(live, question).scores).max() < 1e-6
    live.release()


def test_one_row_is_read_as_the_number_on_screen_is(whole: Any) -> None:
    live = open_model(model("neox"), tokenizer())
    question = asked(live)
    a = attribute(live, question, method="gradient_x_input")
    assert a.metric == float(question.metric.of(live.answer(question).logits[None]))
    assert seen(live) is None
    live.release()


@pytest.mark.parametrize("name", ["ctrl", "git"])
def test_a_family_that_goes_on_in_place_behind_its_embedding_has_gradients_too(name: str) -> None:
    live = opened(name)
    a = attribute(live, random_question(live))
    assert abs(a.total) > 0.01
    assert abs(a.error) < 1e-3 * max(1.0, abs(a.metric))
    live.release()

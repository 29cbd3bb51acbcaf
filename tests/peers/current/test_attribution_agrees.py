"""Attributions are those of Captum and Inseq, on the same weights, to 1e-5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import inseq
import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients

from interp_widgets.methods.answers import attribute_answer
from interp_widgets.methods.attribution import attribute
from interp_widgets.methods.baselines import find_baseline
from interp_widgets.methods.explained import explained
from interp_widgets.methods.gradients import integrated_gradients
from interp_widgets.model.live import LiveModel, open_model
from tests.unit.attribution_models import FAMILIES, PROMPT, asked, model, tokenizer

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module", params=FAMILIES)
def live(request: pytest.FixtureRequest) -> Iterator[LiveModel]:
    opened = open_model(model(request.param), tokenizer())
    yield opened
    opened.release()


def metric_of_embeddings(live: LiveModel) -> Any:
    def metric(embeddings: torch.Tensor) -> torch.Tensor:
        logits = live.module(inputs_embeds=embeddings, use_cache=False).logits[:, -1]
        return logits[:, 7] - logits[:, 8]

    return metric


def own_embeddings(live: LiveModel) -> torch.Tensor:
    ids = torch.tensor([asked(live).ids])
    return live.module.get_input_embeddings()(ids).detach()


def largest(scores: np.ndarray[Any, Any]) -> float:
    return float(np.abs(scores).max())


@pytest.mark.parametrize("baseline", ["mean", "bos", "unk"])
@pytest.mark.parametrize("steps", [8, 50])
def test_integrated_gradients_are_captums(live: LiveModel, baseline: str, steps: int) -> None:
    found = find_baseline(live, asked(live), baseline)
    ours = integrated_gradients(explained(live, asked(live)), found, steps)
    start = found.values.expand_as(own_embeddings(live)[0])[None]
    theirs = IntegratedGradients(metric_of_embeddings(live)).attribute(
        own_embeddings(live), baselines=start, n_steps=steps, method="gausslegendre", internal_batch_size=64
    )
    assert largest(ours.scores) > 0.01
    np.testing.assert_allclose(ours.scores, theirs.sum(-1)[0].detach().numpy(), **CLOSE)


def test_gradient_x_input_is_captums(live: LiveModel) -> None:
    theirs = InputXGradient(metric_of_embeddings(live)).attribute(own_embeddings(live).requires_grad_())
    ours = attribute(live, asked(live), method="gradient_x_input")
    np.testing.assert_allclose(ours.scores, theirs.sum(-1)[0].detach().numpy(), **CLOSE)


def test_occlusion_is_captums_ablation_of_each_word(live: LiveModel) -> None:
    def metric(ids: torch.Tensor) -> torch.Tensor:
        logits = live.module(ids).logits[:, -1]
        return logits[:, 7] - logits[:, 8]

    ids = torch.tensor([asked(live).ids])
    with torch.no_grad():
        theirs = FeatureAblation(metric).attribute(ids, baselines=torch.full_like(ids, 1))
    ours = attribute(live, asked(live), method="occlusion", baseline="unk")
    np.testing.assert_allclose(ours.scores, theirs[0].numpy(), **CLOSE)


def inseq_scores(live: LiveModel, method: str, **how: Any) -> np.ndarray[Any, Any]:
    """Inseq's attribution of the word `w7` behind the prompt, summed over the width, `[pos]`."""
    wrapped = inseq.load_model(live.module, method, tokenizer=tokenizer_with_pad())
    out = wrapped.attribute(
        PROMPT, PROMPT + " w7", show_progress=False, attributed_fn=how.pop("attributed_fn", "logit"), **how
    )
    table = out.sequence_attributions[0].target_attributions
    return table[: len(PROMPT.split()), -1].sum(-1).numpy()


def tokenizer_with_pad() -> Any:
    words = tokenizer()
    words.pad_token = "<unk>"
    words.eos_token = "<bos>"
    return words


def test_gradient_x_input_is_inseqs(live: LiveModel) -> None:
    ours = attribute(live, asked(live, foil=None), method="gradient_x_input")
    theirs = inseq_scores(live, "input_x_gradient")
    mean = metric_of_the_mean_logit(live)
    np.testing.assert_allclose(ours.scores, theirs - mean, **CLOSE)


def metric_of_the_mean_logit(live: LiveModel) -> np.ndarray[Any, Any]:
    """Inseq reads the logit; ours without a foil reads it over the mean logit, so the mean's attribution is the difference."""
    embeddings = own_embeddings(live).requires_grad_()
    mean = live.module(inputs_embeds=embeddings, use_cache=False).logits[0, -1].mean()
    (slope,) = torch.autograd.grad(mean, embeddings)
    return (slope * embeddings).sum(-1)[0].detach().numpy()


def test_the_contrast_of_target_and_foil_is_inseqs(live: LiveModel) -> None:
    theirs = inseq_scores(
        live, "input_x_gradient", attributed_fn="contrast_logits_diff", contrast_targets=PROMPT + " w8"
    )
    ours = attribute(live, asked(live), method="gradient_x_input")
    np.testing.assert_allclose(ours.scores, theirs, **CLOSE)


def test_an_answers_gradient_x_input_is_inseqs_by_log_probability(live: LiveModel) -> None:
    """D log p = d p / p: Inseq attributes probabilities."""
    table = attribute_answer(live, asked(live), "w7", method="gradient_x_input")
    theirs = inseq_scores(live, "input_x_gradient", attributed_fn="probability")
    np.testing.assert_allclose(table.scores[0], theirs / np.exp(table.metrics[0]), rtol=1e-3, atol=1e-4)

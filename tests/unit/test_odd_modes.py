"""Modes, defaults, signatures and settings of the user's that a forward of ours meets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

import interp_widgets as iw
from interp_widgets.methods.dose_response import dose_response
from interp_widgets.methods.self_repair import self_repair
from interp_widgets.model.errors import ModelRefusedError
from interp_widgets.model.interventions import Steer
from interp_widgets.model.live import open_model
from interp_widgets.model.sampling import gumbel
from tests.unit import tiny_models
from tests.unit.sweep_models import ask, opened

IDS = torch.tensor([[5, 9, 12, 5, 30, 7]])
PROMPT = [5, 9, 12, 5, 30, 7]
PUSH = np.linspace(-1.0, 1.0, 32).astype(np.float32)
MAKERS = [tiny_models.gpt2, tiny_models.llama]
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
}


def own(module: Any) -> torch.Tensor:
    """The module's own logits, `[pos, vocab]`."""
    with torch.no_grad():
        out = module(IDS)
    return (out if isinstance(out, torch.Tensor) else out[0])[0]


# ---- the caller's modes -----------------------------------------------------------------------------------------------


@pytest.mark.case("A18")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("maker", MAKERS, ids=["gpt2", "llama"])
def test_a_model_opened_in_a_mode_of_the_callers_has_every_feature(maker: Callable[[], Any], mode: str) -> None:
    module = maker()
    with opened(maker()) as live:
        off = live.report.off
    with MODES[mode]():
        live = open_model(module, tiny_models.tokenizer())
    try:
        assert live.report.off == off
        assert torch.equal(live.run(PROMPT).logits, own(module))
    finally:
        live.release()


@pytest.mark.case("A18")
@pytest.mark.parametrize("mode", ["autocast", "inference"])
def test_self_repair_is_the_same_in_a_mode_of_the_callers(mode: str) -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        expected = self_repair(live, asked, "L1H0", "zero")
    with opened(tiny_models.gpt2()) as live, MODES[mode]():
        found = self_repair(live, asked, "L1H0", "zero")
    assert found.words == expected.words
    assert np.allclose(found.suppression, expected.suppression, equal_nan=True)


def test_runs_texts_and_curves_are_the_same_where_the_default_device_is_meta() -> None:
    def numbers() -> tuple[torch.Tensor, list[int], Any]:
        live.cache.clear()
        curve = dose_response(live, asked, Steer("L1", PUSH), [-1.0, 0.0, 1.0], randoms=3)
        text = live.generate(PROMPT, max_new_tokens=4, temperature=1.0, seed=3)
        return live.run(PROMPT).logits, [t.id for t in text], curve

    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        logits, ids, curve = numbers()
        with torch.device("meta"):
            found = numbers()
    assert torch.equal(found[0], logits)
    assert found[1] == ids
    assert np.array_equal(found[2].metric, curve.metric)
    assert np.array_equal(found[2].random_metric, curve.random_metric)


def test_runs_of_several_lengths_are_the_same_where_the_default_device_is_meta() -> None:
    with opened(tiny_models.llama()) as live:
        expected = [run.logits for run in live.runs([PROMPT, PROMPT[:3]])]
        with torch.device("meta"):
            found = [run.logits for run in live.runs([PROMPT, PROMPT[:3]])]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_random_controls_and_noise_do_not_depend_on_the_default_dtype() -> None:
    with opened(tiny_models.gpt2()) as live:
        asked = ask(live)
        expected = dose_response(live, asked, Steer("L1", PUSH), [-1.0, 1.0], randoms=3), gumbel(1, 2, 9)
        torch.set_default_dtype(torch.float64)
        try:
            found = dose_response(live, asked, Steer("L1", PUSH), [-1.0, 1.0], randoms=3), gumbel(1, 2, 9)
        finally:
            torch.set_default_dtype(torch.float32)
    assert np.array_equal(found[0].metric, expected[0].metric)
    assert np.array_equal(found[0].random_metric, expected[0].random_metric)
    assert torch.equal(found[1], expected[1])


# ---- other signatures -------------------------------------------------------------------------------------------------


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in self.c_attn(x).split(32, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(-2))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(32), _Attention(), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class _Nano(nn.Module):
    """A model of nanoGPT's form: `idx` in, a tuple out, no configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tiny_models.VOCAB, 32), nn.Embedding(64, 32)
        self.h = nn.ModuleList(_Block() for _ in range(3))
        self.ln_f, self.lm_head = nn.LayerNorm(32), nn.Linear(32, tiny_models.VOCAB, bias=False)
        generator = torch.Generator().manual_seed(3)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.3

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        assert targets is None
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None


class _Bare(_Nano):
    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        return super().forward(idx, targets)[0]


class _Needy(_Nano):
    def forward(self, idx: torch.Tensor, *, other: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(idx + other)


@pytest.mark.parametrize("kind", [_Nano, _Bare])
def test_a_forward_that_calls_its_ids_something_else_is_opened_run_and_edited(kind: type[nn.Module]) -> None:
    module = kind().eval()
    with opened(module) as live:
        assert "edits" not in live.report.off
        assert torch.equal(live.run(PROMPT).logits, own(module))
        assert not torch.allclose(live.run(PROMPT, [iw.Ablate("L1H0", mode="zero")]).logits, own(module))
        text = [t.id for t in live.generate(PROMPT, max_new_tokens=1)]
        assert text == [int(own(module)[-1].argmax())]


def test_a_forward_that_needs_more_than_ids_is_refused_in_a_sentence() -> None:
    with pytest.raises(ModelRefusedError, match=r"_Needy does not run on token ids alone .*'other'"):
        open_model(_Needy().eval(), tiny_models.tokenizer())


class _Called(GPT2LMHeadModel):
    """A model whose `__call__` is its own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = super().__call__(*args, **kwargs)
        out.logits = out.logits * 2
        return out


@pytest.mark.parametrize("when", ["never", "before", "after"])
@pytest.mark.case("A22")
def test_a_call_of_the_class_s_own_is_part_of_what_is_run(when: str) -> None:
    module = _Called(tiny_models.gpt2().config).eval()
    plain = own(module)
    if when == "before":
        module.compile(backend="eager")
    with opened(module) as live:
        if when == "after":
            module.compile(backend="eager")
        assert torch.equal(live.run(PROMPT).logits, plain)
        assert live.run(PROMPT, [iw.Ablate("L1H0", mode="zero")]).receipts[0].state == "acted"
        assert [t.id for t in live.generate(PROMPT, max_new_tokens=1)] == [int(plain[-1].argmax())]


# ---- settings of the output -------------------------------------------------------------------------------------------


def test_a_model_that_fails_on_its_own_tuples_says_which_setting_it_is() -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        module.config.return_dict = False
        with pytest.raises(ModelRefusedError, match=r"return_dict is False: set model\.config\.return_dict = True"):
            live.run(PROMPT)
        with pytest.raises(ModelRefusedError, match=r"return_dict is False"):
            list(live.generate(PROMPT, max_new_tokens=2))
        module.config.return_dict = True
        assert torch.equal(live.run(PROMPT).logits, own(module))
    module.config.return_dict = False
    with pytest.raises(ModelRefusedError, match=r"return_dict is False: set model\.config\.return_dict = True"):
        open_model(module, tiny_models.tokenizer())


@pytest.mark.parametrize("maker", MAKERS, ids=["gpt2", "llama"])
def test_attentions_and_hidden_states_in_the_output_change_no_run(maker: Callable[..., Any]) -> None:
    module = maker(attn_implementation="eager")
    edit = [iw.Ablate("L1H0", mode="zero")]
    with opened(module) as live:
        asked = ask(live)
        expected = live.run(PROMPT, edit).logits, live.answer(asked, edit).logits
        module.config.output_attentions = module.config.output_hidden_states = True
        live.cache.clear()
        assert torch.equal(live.run(PROMPT, edit).logits, expected[0])
        assert torch.equal(live.answer(asked, edit).logits, expected[1])
        assert len(list(live.generate(PROMPT, edit, max_new_tokens=3))) == 3

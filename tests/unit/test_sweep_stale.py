"""Whatever changes a model moves the key of everything that is kept about it, so nothing stale is shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interp_widgets.model.interventions import Ablate
from tests.unit import tiny_models
from tests.unit.sweep_models import ask, opened


def add_through_data(module: Any) -> None:
    module.transformer.h[1].mlp.c_proj.weight.data.add_(0.05)


def add_in_place(module: Any) -> None:
    with torch.no_grad():
        module.transformer.h[1].attn.c_attn.bias.mul_(1.5)


def load_a_checkpoint(module: Any) -> None:
    module.load_state_dict({k: v * 1.1 for k, v in module.state_dict().items()})


def new_parameter(module: Any) -> None:
    module.transformer.h[0].ln_1.weight = nn.Parameter(torch.ones(32) * 2)


def hook_below(module: Any) -> None:
    module.transformer.h[0].register_forward_hook(
        lambda _m, _a, out: (out[0] + 1, *out[1:]) if isinstance(out, tuple) else out + 1
    )


def buffer(module: Any) -> None:
    module.transformer.h[0].mlp.register_buffer("scale", torch.ones(1))


CHANGES = [add_through_data, add_in_place, load_a_checkpoint, new_parameter, hook_below, buffer]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_moves_its_key(change: Any) -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        before = live.fingerprint()
        assert live.fingerprint() == before
        change(module)
        assert live.fingerprint() != before


@pytest.mark.parametrize("change", [add_through_data, add_in_place, load_a_checkpoint, hook_below])
def test_after_a_change_a_click_is_that_of_the_changed_model(change: Any) -> None:
    module = tiny_models.gpt2()
    with opened(module) as live:
        asked, on = ask(live), [Ablate("L2H1", mode="zero")]
        before = live.answer(asked, on).logits
        change(module)
        after = live.answer(asked, on).logits
        assert not torch.equal(before, after)
        live.refresh()
        assert torch.equal(live.answer(asked, on).logits, after)


def test_a_transposed_weight_changed_through_data_is_seen() -> None:
    module = tiny_models.gpt2()
    weight = module.transformer.h[0].mlp.c_fc.weight
    weight.data = weight.data.t().contiguous().t()
    assert not weight.is_contiguous()
    with opened(module) as live:
        before = live.fingerprint()
        weight.data.add_(0.1)
        assert live.fingerprint() != before

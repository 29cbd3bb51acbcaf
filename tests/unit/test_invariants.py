"""The invariants catch what they are for: each damage, done on purpose, fails; doing nothing passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.invariants import our_hooks, untouched
from tests.unit import tiny_models


def nudge_a_weight(model: Any) -> None:
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1e-6


def leave_a_hook(model: Any) -> None:
    model.transformer.h[0].register_forward_hook(lambda *_: None)


def take_the_users_hook(model: Any) -> None:
    model.lm_head._forward_hooks.clear()


def turn_the_users_hooks_round(model: Any) -> None:
    hooks = model.transformer.wte._forward_hooks
    hooks.move_to_end(next(iter(hooks)))


def leave_a_gradient(model: Any) -> None:
    model.lm_head.weight.grad = torch.zeros_like(model.lm_head.weight)


def freeze_a_weight(model: Any) -> None:
    model.lm_head.weight.requires_grad_(requires_grad=False)


def draw_a_random_number(model: Any) -> None:
    torch.rand(1)


def write_the_config(model: Any) -> None:
    model.config.use_cache = not model.config.use_cache


def switch_attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def replace_the_attention_function(model: Any) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["flex_attention"] = replace_the_attention_function


def leave_two_threads(model: Any) -> None:
    STOP.clear()
    for _ in range(2):
        threading.Thread(target=STOP.wait, daemon=True).start()


STOP = threading.Event()
DAMAGES: list[tuple[Callable[[Any], None], str]] = [
    (nudge_a_weight, "weights"),
    (leave_a_hook, "hooks"),
    (take_the_users_hook, "hooks"),
    (turn_the_users_hooks_round, "hooks"),
    (lambda model: model.train(), "modes"),
    (leave_a_gradient, "gradients"),
    (freeze_a_weight, "gradients"),
    (draw_a_random_number, "random"),
    (write_the_config, "config"),
    (switch_attention, "config"),
    (replace_the_attention_function, "attention"),
    (leave_two_threads, "threads left"),
]


@pytest.fixture
def model() -> Any:
    """A model with three hooks of its user's."""
    made = tiny_models.gpt2()
    made.lm_head.register_forward_hook(lambda *_: None)
    for _ in range(2):
        made.transformer.wte.register_forward_hook(lambda *_: None)
    return made


def test_doing_nothing_and_running_the_model_pass(model: Any) -> None:
    with untouched(model):
        model(torch.tensor([[2, 3]]))


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[named + str(i) for i, (_, named) in enumerate(DAMAGES)])
def test_each_damage_is_caught_and_named(model: Any, damage: Callable[[Any], None], named: str) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    entry = ALL_ATTENTION_FUNCTIONS["flex_attention"]
    try:
        with pytest.raises(AssertionError, match=named), untouched(model):
            damage(model)
    finally:
        ALL_ATTENTION_FUNCTIONS["flex_attention"] = entry
        ALL_ATTENTION_FUNCTIONS._local_mapping.pop("flex_attention", None)
        STOP.set()


def test_an_exception_in_the_block_does_not_hide_the_damage(model: Any) -> None:
    def damage_and_fail() -> None:
        with untouched(model):
            nudge_a_weight(model)
            raise ValueError

    with pytest.raises(AssertionError, match="weights"):
        damage_and_fail()


def test_a_closed_model_has_no_hook_of_ours_and_an_open_one_has(model: Any) -> None:
    from interp_widgets.model.live import open_model

    with untouched(model):
        live = open_model(model, tiny_models.tokenizer())
        assert our_hooks(model) > 0
        live.release()
        assert our_hooks(model) == 0

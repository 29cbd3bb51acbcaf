"""Generation under a push, against `model.generate` with the hook that a user writes; the tokens are the same ones."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.cases import Case, Setting, Target
from bench.shapes import question
from bench.timing import Contender
from interp_widgets.model.generate import generate, side_by_side
from interp_widgets.model.interventions import Steer

PROMPT = 16


@contextmanager
def pushed(setting: Setting, steer: Steer) -> Generator[None]:
    """The untouched copy with a plain hook that adds the same vector to what the same block puts out."""
    assert steer.site.layer is not None
    block = setting.live.anatomy.layers[steer.site.layer].module
    path = next(p for p, m in setting.live.anatomy.paths.items() if m is block)
    push = torch.from_numpy(steer.vector.values.copy()) * steer.coefficient

    def add(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] + push, *output[1:]) if isinstance(output, tuple) else output + push

    handle = setting.bare.get_submodule(path).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def generation(setting: Setting, rounds: int, tokens: int, bars: tuple[float, float] | tuple[None, None]) -> Case:
    """Greedy text under a push in the middle of the model, alone and beside the plain text.

    Args:
        bars: what plain and steered side by side may cost, in times of one `generate`, and the aim.

    Raises:
        RuntimeError: when the tokens are not those of `model.generate`.
    """
    live = setting.live
    ids = [t.id for t in question(live, PROMPT).tokens]
    vector = np.random.default_rng(0).standard_normal(live.anatomy.d_model).astype(np.float32)
    steer = Steer(f"L{len(live.anatomy.layers) // 2}", vector, 0.5, positions="all")
    inputs = torch.tensor([ids])

    def theirs() -> list[int]:
        with pushed(setting, steer), torch.no_grad():
            text = setting.bare.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        return text[0, len(ids) :].tolist()

    def ours() -> list[int]:
        return [t.id for t in generate(live, ids, [steer], tokens, ignore_eos=True)]

    def both() -> list[int]:
        pairs = side_by_side(live, ids, [steer], tokens, ignore_eos=True)
        return [pair[1].id for pair in pairs if pair[1] is not None]

    def two_rows() -> None:
        rows, cache = inputs.expand(2, -1), None
        with torch.no_grad():
            for n in range(tokens):
                mask = torch.ones(2, len(ids) + n, dtype=torch.long)
                out = setting.bare(rows, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
                rows, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    if not theirs() == ours() == both():
        raise RuntimeError(f"On {setting.name} the tokens are not those of model.generate with an equal hook.")
    contenders = {
        "ours": Contender(ours),
        "generate": Contender(theirs),
        "side by side": Contender(both),
        "two rows": Contender(two_rows),
    }
    targets = (
        Target(
            "ours", "generate", "steered text, the same tokens / generate with a plain hook", 1.05, 1.01, faster=False
        ),
        Target("side by side", "generate", "plain and steered side by side / one generate", *bars, faster=False),
        Target("two rows", "generate", "the model's bare loop over two rows / one generate", faster=False),
    )
    title = f"generation, {setting.name}, {tokens} tokens after {PROMPT}"
    return Case("generation", title, contenders, targets, rounds, ours)

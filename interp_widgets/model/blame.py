"""Where numbers stop being numbers: asked only after a run has failed, by one more forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.compile import compile_program
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.question import Token
from interp_widgets.model.run import batch_of, forward
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel


def not_finite(
    live: LiveModel,
    what: str,
    tokens: Sequence[Token],
    interventions: Sequence[Intervention],
    n_prompt: int | None = None,
) -> str:
    """The sentence for a result that is not finite: from which layer on, and what to do.

    Args:
        live: the model.
        what: the result, as the sentence begins.
        tokens: the text that was run.
        interventions: what was on.
        n_prompt: how many of the tokens are the prompt; all of them unless given.
    """
    layer = first_bad_layer(live, tokens, interventions, n_prompt)
    where = "at the unembedding" if layer is None else f"from layer {layer} on"
    names = ", ".join(dict.fromkeys(i.label for i in interventions))
    fix = f"lower the strength of {names}" if names else "the model does this by itself: check its weights and dtype"
    return f"{what} not finite {where}; {fix}."


def first_bad_layer(
    live: LiveModel, tokens: Sequence[Token], interventions: Sequence[Intervention], n_prompt: int | None = None
) -> int | None:
    """The first block after which the stream is not finite; None when every block's is."""
    count = len(tokens) if n_prompt is None else n_prompt
    sites = [Site("resid_post", layer.index) for layer in live.anatomy.layers]
    with live.lock:
        live.ready()
        batch = batch_of([tokens], live.device, [count])
        compiled = compile_program(live, batch, interventions, sites, [tokens[:count]])
        forward(live.caller, live.anatomy, batch, compiled.program, [len(tokens) - 1])
    bad = (s.layer for s in sites if s in compiled.caught and not bool(torch.isfinite(compiled.caught[s]).all()))
    return next(bad, None)

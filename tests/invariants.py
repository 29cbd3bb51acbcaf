"""What must be the same before and after anything that we do to a user's model.

    with untouched(model):
        live.run("w2 w3", [Ablate("L0H1", mode="zero")])

The fixture `keep` (tests/conftest.py) holds a model to the same over a whole test, for tests that draw random numbers
or leave a session open.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from interp_widgets.model import gate

PROBE = (2, 3, 5, 7, 3, 2)
OURS = "interp_widgets"


@dataclass(frozen=True)
class Photograph:
    """Everything of a model, and of the process around it, that is the user's."""

    weights: str
    logits: bytes
    hooks: tuple[tuple[str, str, int], ...]
    modes: tuple[tuple[str, bool], ...]
    gradients: tuple[tuple[str, bool, str, str, str], ...]
    config: str
    attention: tuple[tuple[str, str], ...]
    process: tuple[str, ...]
    random: bytes


def photograph(model: Any) -> Photograph:
    """Look at a model; the probe forward leaves the random state as it was."""
    random = torch.get_rng_state()
    parameters = list(model.named_parameters())
    seen = Photograph(
        weights=_hash(model),
        logits=_logits(model),
        hooks=tuple(_foreign_hooks(model)),
        modes=tuple((name, module.training) for name, module in model.named_modules()),
        gradients=tuple((n, p.requires_grad, _bytes_of(p.grad), str(p.dtype), str(p.device)) for n, p in parameters),
        config=_config(model),
        attention=tuple(_registry()),
        process=(str(torch.is_grad_enabled()), str(torch.is_inference_mode_enabled()), str(torch.get_default_dtype())),
        random=bytes(random.numpy().tobytes()),
    )
    torch.set_rng_state(random)
    return seen


@contextmanager
def untouched(model: Any, *, random: bool = True) -> Generator[None]:
    """Assert that the block leaves the model, and what is around it, exactly as they were; `random`: the seed too."""
    before = photograph(model)
    threads = sum(one.name != "interp_widgets sender" for one in threading.enumerate())
    try:
        yield
    finally:
        compare(before, photograph(model), random=random)
        assert gate.active() is None, "a run of ours is still active here"
        # One worker may stay a while for the next wish; more would be a leak.
        # The one sender of the process rests for some seconds before it ends.
        here = [one for one in threading.enumerate() if one.name != "interp_widgets sender"]
        assert len(here) <= threads + 1, f"threads left: {here}"


def compare(before: Photograph, after: Photograph, *, random: bool = True) -> None:
    """AssertionError naming what is not as it was."""
    changed = [one.name for one in fields(Photograph) if getattr(before, one.name) != getattr(after, one.name)]
    if not random and "random" in changed:
        changed.remove("random")
    details = [f"{name}: {_difference(getattr(before, name), getattr(after, name))}" for name in changed]
    assert not changed, "the model is not as it was; " + "; ".join(details)


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, tuple):
        return (
            f"gone {[x for x in before if x not in after]}, new {[x for x in after if x not in before]}, or reordered"
        )
    return "another value"


def _hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(name.encode() + (plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""))
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor | None) -> str:
    return "" if tensor is None else hashlib.sha256(tensor.detach().cpu().float().numpy().tobytes()).hexdigest()


def _config(model: Any) -> str:
    # Saving the model, a user's own call, writes these two.
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("architectures", "dtype")}
    generation = getattr(model, "generation_config", None)
    told = [config, generation.to_dict() if generation is not None else None, _implementation(model)]
    return json.dumps(told, sort_keys=True, default=str)


def _logits(model: Any) -> bytes:
    with torch.no_grad():
        logits = model(torch.tensor([PROBE], device=model.device), use_cache=False).logits
    return logits.float().cpu().numpy().tobytes()


def _foreign_hooks(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    for name, module in model.named_modules():
        for table in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks"):
            for hook in getattr(module, table).values():
                if not str(getattr(hook, "__module__", "")).startswith(OURS):
                    yield name, table, id(hook)


def our_hooks(model: nn.Module) -> int:
    """How many hooks of ours are on a model: none once its last session is closed."""
    tables = [table for m in model.modules() for table in (m._forward_pre_hooks, m._forward_hooks)]
    return sum(str(getattr(hook, "__module__", "")).startswith(OURS) for table in tables for hook in table.values())


def attention_registry() -> dict[str, Any]:
    """Transformers' attention registry as it is now."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return dict(ALL_ATTENTION_FUNCTIONS._global_mapping)


def _implementation(model: Any) -> str:
    return str(getattr(model.config, "_attn_implementation", None))


def _registry() -> Iterator[tuple[str, str]]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in ALL_ATTENTION_FUNCTIONS.valid_keys():
        entry = ALL_ATTENTION_FUNCTIONS[name]
        # While a session is open the entry in use is wrapped; what it wraps must be the original.
        original = getattr(entry, "original", entry)
        yield name, f"{getattr(original, '__module__', '')}.{getattr(original, '__qualname__', original)}"

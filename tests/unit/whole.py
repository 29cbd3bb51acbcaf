"""Is a model as it was? A snapshot of everything that a run of ours must not move."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp_widgets.model.gate import after_hook, before_hook


def weights(module: torch.nn.Module) -> str:
    """SHA-256 of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def foreign(module: torch.nn.Module) -> list[tuple[str, str, int]]:
    """Hooks that are not ours, in order."""
    return [
        (path, kind, id(hook))
        for path, part in module.named_modules()
        for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
        for hook in getattr(part, kind).values()
        if hook is not before_hook and hook is not after_hook
    ]


def own_hooks(module: torch.nn.Module) -> int:
    """How many hooks of ours are on the model."""
    return sum(
        hook is before_hook or hook is after_hook
        for part in module.modules()
        for table in (part._forward_pre_hooks, part._forward_hooks)
        for hook in table.values()
    )


def snapshot(module: Any) -> dict[str, Any]:
    """Everything that must be the same afterwards."""
    return {
        "weights": weights(module),
        "foreign hooks": foreign(module),
        "modes": [m.training for m in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        # save_pretrained, a user's own call, writes these two
        "config": {
            k: v for k, v in copy.deepcopy(module.config.to_dict()).items() if k not in ("architectures", "dtype")
        },
        "attention": module.config._attn_implementation,
        "rng": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
    }


@contextmanager
def untouched(module: Any) -> Generator[None]:
    """Assert that the block leaves the model, its hooks, the random state and every mode as they were."""
    ids = torch.tensor([[2, 3, 4, 5]])
    before = snapshot(module)
    with torch.no_grad():
        plain = module(ids).logits
    yield
    after = snapshot(module)
    for what, value in before.items():
        assert _same(value, after[what]), f"{what} changed"
    with torch.no_grad():
        assert torch.equal(module(ids).logits, plain), "the plain logits changed"


def registry() -> dict[str, Any]:
    """Transformers' attention registry as it is now."""
    return dict(ALL_ATTENTION_FUNCTIONS._global_mapping)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and a and any(isinstance(x, torch.Tensor) for x in a):
        return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in zip(a, b, strict=True))
    return a == b

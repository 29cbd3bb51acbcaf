"""Torch's modes as a run of ours needs them, whatever the caller's are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def modes(device: torch.device, grad: bool = False) -> Generator[None]:
    """Grad, inference and autocast modes as *we* need them: they are per thread, and the caller's are not in force here.

    The caller's default device stays, as the model may rely on it; `meta` goes, where a forward would make no numbers.
    """
    kind = device.type
    on = kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind)
    autocast = torch.autocast(kind, enabled=False) if on else nullcontext()
    inference = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    numbers = torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()
    grads = torch.is_grad_enabled()
    try:
        with inference, torch.set_grad_enabled(grad), autocast, numbers:
            yield
    finally:
        # Once more: an interrupt that falls into the end of one of those blocks leaves its mode behind in the user's thread.
        torch.set_grad_enabled(grads)
        if on:
            torch.set_autocast_enabled(kind, True)

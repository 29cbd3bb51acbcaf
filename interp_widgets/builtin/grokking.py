"""Progress measures of the modular-addition model (Nanda et al. 2023): key frequencies, restricted and excluded loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .addition import AdditionRecipe, all_logits, is_train, losses

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel

KEY_SHARE = 0.02


@dataclass(frozen=True)
class Progress:
    """Where a checkpoint stands. Losses are means of cross entropy in nats."""

    train_loss: float
    test_loss: float
    test_accuracy: float
    restricted_loss: float  # test loss with only the constant and the key frequencies kept in the logits
    excluded_loss: float  # train loss with the key frequencies taken out of the logits
    embedding_top5: float  # share of the number embeddings' Fourier power in its five strongest frequencies
    weight_norm: float  # sum of squares of all trained weights


def progress(model: GPT2LMHeadModel, recipe: AdditionRecipe, keys: tuple[int, ...]) -> Progress:
    """Every measure of one checkpoint; `keys` are the key frequencies of the *final* model."""
    import torch

    with torch.no_grad():
        logits = all_logits(model, recipe.p).double()
    mask = is_train(recipe)
    plain = losses(logits, recipe.p)
    kept = key_part(logits, keys)
    answers = (torch.arange(recipe.p)[:, None] + torch.arange(recipe.p)) % recipe.p
    right = (logits[..., : recipe.p].argmax(-1) == answers)[~mask].double().mean()
    constant = logits.mean((0, 1), keepdim=True)
    return Progress(
        float(plain[mask].mean()),
        float(plain[~mask].mean()),
        float(right),
        float(losses(constant + kept, recipe.p)[~mask].mean()),
        float(losses(logits - kept, recipe.p)[mask].mean()),
        float(embedding_power(model, recipe.p).sort(descending=True).values[:5].sum()),
        float(sum((q.detach() ** 2).sum() for name, q in model.named_parameters() if "ln_" not in name)),
    )


def key_frequencies(model: GPT2LMHeadModel, p: int) -> tuple[int, ...]:
    """Frequencies k whose waves in a + b carry at least 2 % of the variance of the logits over pairs, strongest first."""
    share = variance_shares(model, p)
    return tuple(int(k) + 1 for k in share.argsort(descending=True) if share[k] >= KEY_SHARE)


def variance_shares(model: GPT2LMHeadModel, p: int) -> torch.Tensor:
    """Share of the logits' variance over pairs that cos and sin of 2 pi k (a + b) / p carry, for k = 1 .. (p - 1) / 2."""
    import torch

    with torch.no_grad():
        logits = all_logits(model, p).double()[..., :p]
    logits = logits - logits.mean((0, 1), keepdim=True)
    powers = torch.stack([(key_part(logits, (k,)) ** 2).sum() for k in range(1, (p - 1) // 2 + 1)])
    return powers / (logits**2).sum()


def key_part(logits: torch.Tensor, keys: tuple[int, ...]) -> torch.Tensor:
    """The part of the logits, `[a, b, c]`, along cos and sin of 2 pi k (a + b) / p for the given k."""
    import math

    import torch

    p = logits.shape[0]
    total = torch.arange(p)[:, None] + torch.arange(p)
    part = torch.zeros_like(logits)
    for k in keys:
        for wave in (torch.cos, torch.sin):
            unit = wave(2 * math.pi * k * total.double() / p)
            unit = unit / unit.norm()
            part += unit[..., None] * torch.einsum("ab,abc->c", unit, logits)
    return part


def embedding_power(model: GPT2LMHeadModel, p: int) -> torch.Tensor:
    """Share of the number embeddings' power at each frequency 1 .. (p - 1) / 2."""
    import torch

    embedding = model.transformer.wte.weight[:p].detach().double()
    power = (torch.fft.rfft(embedding - embedding.mean(0), dim=0).abs() ** 2).sum(1)[1:]
    return power / power.sum()

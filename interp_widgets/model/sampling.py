"""From logits to the next token: greedy, or sampled with noise of our own."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp_widgets.model.errors import GenerationError

_MAX_SEED = 1 << 48


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Sampling is the Gumbel-max trick: argmax of logits / temperature + noise. The noise of step *k* is a function of the
    seed and *k* alone, so two rows with one seed stay together until their distributions force them apart, and a text
    that is continued from its middle goes on as it would have. The global random state is neither read nor moved.

    Args:
        temperature: 0 is greedy.
        top_k: keep the k most probable tokens.
        top_p: keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020).
        seed: None draws one, which is kept here.

    Raises:
        GenerationError: for a value outside its range.

    Example:
        >>> Sampling(temperature=0.8, seed=1).choose(torch.tensor([[0.0, 9.0]]), [0]).tolist()
        [1]
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        t, k, p, seed = self.temperature, self.top_k, self.top_p, self.seed
        if isinstance(t, bool) or not isinstance(t, (int, float)) or not math.isfinite(t) or not 0 <= t <= 100:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GenerationError(
                f"The temperature is a number from 0 (greedy) to 100, not {t!r}; 1.0 is the model's own distribution."
            )
        if k is not None and (type(k) is not int or k < 1):
            raise GenerationError(f"top_k is a whole number from 1, not {k!r}; None keeps every token.")
        if p is not None and (isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p <= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GenerationError(f"top_p is a number above 0 and at most 1, not {p!r}; None keeps every token.")
        if seed is not None and (type(seed) is not int or not 0 <= seed < _MAX_SEED):
            raise GenerationError(f"A seed is a whole number from 0 to 2**48 - 1, not {seed!r}.")
        if seed is None:
            object.__setattr__(self, "seed", secrets.randbelow(1 << 31))

    def choose(self, logits: torch.Tensor, steps: Sequence[int], seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The chosen ids `[row]` of `logits [row, vocab]` (float32), `steps[row]` tokens after the prompt."""
        if self.temperature == 0:
            return logits.argmax(-1)
        kept = self._kept(logits / self.temperature)
        assert self.seed is not None
        drawn: dict[tuple[int, int], torch.Tensor] = {}
        for r, step in enumerate(steps):
            key = (self.seed if seeds is None else seeds[r], step)
            if key not in drawn:
                drawn[key] = gumbel(*key, logits.shape[-1])
        noise = torch.stack([drawn[self.seed if seeds is None else seeds[r], step] for r, step in enumerate(steps)])
        return (kept + noise.to(logits.device)).argmax(-1)

    def _kept(self, logits: torch.Tensor) -> torch.Tensor:
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, at = logits.sort(dim=-1, descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, at, before >= self.top_p)
            logits = logits.masked_fill(dropped, -math.inf)
        return logits


def gumbel(seed: int, step: int, vocab: int) -> torch.Tensor:
    """Standard Gumbel noise `[vocab]` of one step, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
    uniform = torch.rand(vocab, generator=generator, dtype=torch.float64, device="cpu").clamp_min(1e-300)
    return -(-uniform.log()).clamp_min(1e-300).log().float()

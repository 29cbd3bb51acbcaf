"""What a token's embedding is replaced by, or compared with: the baseline of an attribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.explained import embeddings
from interp_widgets.model.errors import PromptError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Token

BaselineSpec = str | Sequence[int] | npt.NDArray[np.floating] | torch.Tensor
NAMES = ("auto", "mean", "zero", "bos", "pad", "unk", "corrupt")
_TOKENS = ("bos", "pad", "unk")
_AT_ONCE = 4096  # rows of the embedding matrix that are averaged at a time


@dataclass(frozen=True, eq=False)
class Baseline:
    """Embeddings to compare with.

    Attributes:
        name: what stands beside the number.
        values: `[d]` for every position, or `[pos, d]`.
    """

    name: str
    values: torch.Tensor

    def rows(self, own: torch.Tensor) -> torch.Tensor:
        """The baseline of every position, `[pos, d]`, on the device of the model's own, in float32 or wider."""
        return self.values.to(own.device, torch.promote_types(own.dtype, torch.float32)).expand(own.shape)

    def where(self, masks: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The model's own embeddings, the baseline's where `masks [row, pos]` is True: `[row, pos, d]`."""
        return torch.where(masks.to(own.device)[:, :, None], self.rows(own).to(own.dtype)[None], own[None])


def baseline_names(live: LiveModel, asked: Asked) -> tuple[str, ...]:
    """The baselines by name that this question can be compared with: not every tokenizer has every token.

    Example:
        >>> baseline_names(live, asked)  # doctest: +SKIP
        ('auto', 'mean', 'zero', 'bos', 'unk')
    """
    missing = {name for name in _TOKENS if getattr(live.tokenizer, f"{name}_token_id", None) is None}
    if asked.corrupt is None or len(asked.corrupt) != len(asked.tokens):
        missing.add("corrupt")
    return tuple(name for name in NAMES if name not in missing)


def find_baseline(live: LiveModel, asked: Asked, spec: BaselineSpec) -> Baseline:
    """Read what a user may write.

    Args:
        live: the model.
        asked: the question, for its length and its corrupt prompt.
        spec: `"mean"` (of the embeddings of all tokens of the vocabulary; also `"auto"`), `"zero"`, `"bos"`, `"pad"`,
            `"unk"` (that token at every position), `"corrupt"` (the question's corrupt prompt), another text or token
            ids of the same length, or embeddings `[d]` or `[pos, d]`.

    Raises:
        PromptError: for a token that the tokenizer does not have, or a prompt of another length.
    """
    if isinstance(spec, np.ndarray | torch.Tensor):
        return _from_array(live, asked, torch.as_tensor(spec))
    if isinstance(spec, str) and spec in ("auto", "mean"):
        return Baseline("mean embedding", mean_embedding(live))
    if isinstance(spec, str) and spec == "zero":
        return Baseline("zero", torch.zeros(_width(live, asked), dtype=torch.float32, device="cpu"))
    if isinstance(spec, str) and spec in _TOKENS:
        return _from_token(live, spec)
    return _from_prompt(live, asked, spec)


def mean_embedding(live: LiveModel) -> torch.Tensor:
    """The mean of what the embedding module gives, over all tokens that the tokenizer can write, `[d]` float32."""
    key = ("mean embedding", live.fingerprint())
    kept = live.cache.get(key)
    if isinstance(kept, torch.Tensor):
        return kept
    last = min(live.anatomy.vocab, _vocabulary(live))
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for start in range(0, last, _AT_ONCE):
        tokens = [Token(i, "") for i in range(start, min(start + _AT_ONCE, last))]
        total = total + embeddings(live, tokens).sum(0, dtype=torch.float64).cpu()
    mean = (total / last).float()
    live.cache.put(key, mean)
    return mean


def neutral(live: LiveModel) -> str:
    """The baseline that a replaced token gets unless told: the tokenizer's own unknown token, else the mean embedding.

    An unknown token is one that the model may meet; where the same id also begins or ends texts it says too much.
    """
    unknown = getattr(live.tokenizer, "unk_token_id", None)
    taken = (getattr(live.tokenizer, "bos_token_id", None), getattr(live.tokenizer, "eos_token_id", None), None)
    return "mean" if unknown in taken else "unk"


def _vocabulary(live: LiveModel) -> int:
    try:
        return len(live.tokenizer) or live.anatomy.vocab
    except TypeError:
        return live.anatomy.vocab


def _from_token(live: LiveModel, name: str) -> Baseline:
    token = getattr(live.tokenizer, f"{name}_token_id", None)
    if token is None:
        raise PromptError(
            f"The baseline {name!r} needs a token that this tokenizer does not have; use baseline='mean'."
        )
    text = live.tokens.token(int(token)).text
    return Baseline(f"{name.upper()} embedding {text!r}", embeddings(live, [Token(int(token), text)])[0].float().cpu())


def _from_prompt(live: LiveModel, asked: Asked, spec: str | Sequence[int]) -> Baseline:
    if isinstance(spec, str) and spec == "corrupt":
        if asked.corrupt is None:
            raise PromptError(
                "The baseline 'corrupt' needs a question with a corrupt prompt; ask(..., corrupt='...') or use 'mean'."
            )
        tokens, name = asked.corrupt, "corrupt prompt"
    else:
        tokens, name = live.tokens.encode(spec), "another prompt"
    if len(tokens) != len(asked.tokens):
        hint = f" (baselines by name are {', '.join(NAMES)})" if isinstance(spec, str) and spec != "corrupt" else ""
        raise PromptError(
            f"The baseline prompt has {len(tokens)} tokens and the question {len(asked.tokens)}; write one that lines "
            f"up token by token{hint}."
        )
    return Baseline(name, embeddings(live, tokens).float().cpu())


def _width(live: LiveModel, asked: Asked) -> int:
    """How wide the embedding is: not the stream's width in every family."""
    return embeddings(live, asked.tokens[:1]).shape[-1]


def _from_array(live: LiveModel, asked: Asked, values: torch.Tensor) -> Baseline:
    d = _width(live, asked)
    if values.shape not in ((d,), (len(asked.tokens), d)):
        raise PromptError(
            f"The baseline has shape {list(values.shape)}, but embeddings of this prompt are [{len(asked.tokens)}, "
            f"{d}]; pass [{d}] or [{len(asked.tokens)}, {d}]."
        )
    return Baseline("given embeddings", values.detach().float().cpu())

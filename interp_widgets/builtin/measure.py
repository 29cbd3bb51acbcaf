"""What the embedded models do, measured: behaviour per family, induction, attention of heads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from .corpus import Document, Family, Split
from .families import FAMILIES, UNSEEN_NAMES_FAMILY

if TYPE_CHECKING:
    import numpy as np
    import torch


def examples(family: Family, split: Split, count: int, seed: int = 12345) -> list[Document]:
    """Documents of a split, always the same ones for a seed."""
    random = Random(f"{seed}|{family.name}|{split}")
    return [family.document(random, split) for _ in range(count)]


def last_logits(model: Any, tok: Any, prompts: list[str]) -> torch.Tensor:
    """Logits after each prompt, `[prompt, vocab]`."""
    import torch

    rows = [tok(prompt)["input_ids"] for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    return logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])].float()


def accuracy(model: Any, tok: Any, documents: list[Document]) -> float:
    """Share of documents whose right answers together are likelier than all foils together; without foils: top-1."""
    logits = last_logits(model, tok, [d.prompt for d in documents])
    right = 0
    for document, row in zip(documents, logits, strict=True):
        targets = first_ids(tok, document.targets)
        if document.foils:
            right += bool(row[targets].logsumexp(0) > row[first_ids(tok, document.foils)].logsumexp(0))
        else:
            right += int(row.argmax()) in targets
    return right / len(documents)


def first_ids(tok: Any, texts: tuple[str, ...]) -> list[int]:
    """The distinct first tokens of some texts."""
    return sorted({tok(text, add_special_tokens=False)["input_ids"][0] for text in texts})


def behaviour(
    model: Any, tok: Any, families: tuple[Family, ...] = FAMILIES, count: int = 200
) -> dict[str, dict[Split, float]]:
    """Accuracy by family and held-out split."""
    return {
        family.name: {split: accuracy(model, tok, examples(family, split, count)) for split in family.splits}
        for family in (*families, UNSEEN_NAMES_FAMILY)
        if family.splits
    }


def induction(
    model: Any, vocabulary: int, marker: tuple[int, ...] = (), *, length: int = 24, count: int = 64, seed: int = 7
) -> tuple[np.ndarray, np.ndarray, float]:
    """Induction and previous-token score of every head, `[layer, head]`, and top-1 accuracy, on repeated random tokens.

    Induction score: mean attention in the second half to the token after the first occurrence of the current one
    (Olsson et al. 2022). Previous-token score: mean attention to position - 1, over the whole sequence after BOS.
    """
    import torch

    random = Random(seed)
    lead = [0, *marker]
    rows = [(s := random.sample(range(1, vocabulary), length)) and [*lead, *s, *s] for _ in range(count)]
    ids = torch.tensor(rows)
    before = model.config._attn_implementation  # eager returns patterns
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(input_ids=ids, use_cache=False, output_attentions=True)
    model.set_attn_implementation(before)
    patterns = torch.stack(out.attentions).float()  # [layer, row, head, dest, src]
    start = len(lead)
    dest = torch.arange(start + length, start + 2 * length)
    scores = patterns[:, :, :, dest, dest - length + 1].mean((1, 3))
    later = torch.arange(start, start + 2 * length)
    previous = patterns[:, :, :, later, later - 1].mean((1, 3))
    answers = ids[:, start + length + 1 :]
    right = (out.logits[:, start + length : -1].argmax(-1) == answers).float().mean()
    return scores.numpy(), previous.numpy(), float(right)


@contextmanager
def head_off(model: Any, layer: int, head: int) -> Generator[None]:
    """Zero one head of a GPT-2 while the block runs."""

    def zero(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].unflatten(-1, (model.config.n_head, -1)).clone()
        z[..., head, :] = 0.0
        return (z.flatten(-2), *args[1:])

    handle = model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def steered(model: Any, layer: int, vector: torch.Tensor) -> Generator[None]:
    """Add a vector to the residual stream after a block, at every position but BOS, while the block runs."""

    def add(_module: Any, _args: Any, out: Any) -> Any:
        state = (out[0] if isinstance(out, tuple) else out).clone()
        state[:, 1:] += vector
        return (state, *out[1:]) if isinstance(out, tuple) else state

    handle = model.transformer.h[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def difference_of_means(
    model: Any, tok: Any, positives: tuple[str, ...], negatives: tuple[str, ...], layer: int, since: int = 1
) -> torch.Tensor:
    """Mean residual stream after a block, positives minus negatives, `[d_model]`.

    `since`: From which position on it is read: 1 leaves out BOS, -1 is the last position alone.
    """
    import torch

    def mean(texts: tuple[str, ...]) -> torch.Tensor:
        with torch.inference_mode():
            states = [
                model(torch.tensor([tok(t)["input_ids"]]), output_hidden_states=True).hidden_states[layer + 1][
                    0, since:
                ]
                for t in texts
            ]
        return torch.cat(states).mean(0)

    return mean(positives) - mean(negatives)


def continuations(model: Any, tok: Any, starts: list[str], count: int) -> list[str]:
    """Greedy continuations of `count` tokens."""
    import torch

    texts: list[str] = []
    for start in starts:
        ids = tok(start)["input_ids"]
        given = len(ids)
        for _ in range(count):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        texts.append(tok.decode(ids[given:]))
    return texts


def summary(model: Any, tok: Any, families: tuple[Family, ...] = FAMILIES, examples: int = 64) -> dict[str, Any]:
    """One line for a training log."""
    marker = tuple(tok("List:", add_special_tokens=False)["input_ids"])
    scores, previous, right = induction(model, len(tok), marker, count=16)
    bare, _, bare_right = induction(model, len(tok), count=16)
    line: dict[str, Any] = {
        "ind": _top(scores),
        "prev": _top(previous),
        "ind_acc": round(right, 3),
        "bare": _top(bare),
        "bare_acc": round(bare_right, 3),
    }
    if not examples:
        return line
    for name, splits in behaviour(model, tok, families, examples).items():
        line[name] = "/".join(f"{value:.2f}" for value in splits.values())
    return line


def _top(scores: np.ndarray) -> str:
    import numpy as np

    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    return f"L{layer}H{head} {scores.max():.2f}"

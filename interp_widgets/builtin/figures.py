"""Every figure on the model card, computed from the shipped files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from . import addition, circuits, corpus, grokking, load, measure, prompts, words
from .families import FAMILIES
from .recipe import RECIPES, families_of

if TYPE_CHECKING:
    import numpy as np
    import torch

PROMPTS_PER_SPLIT = 200
HEAD_PROMPTS = 96
LENS_PROMPTS = 64
LOOKS, MOVER = 0.5, 0.02
"""A name mover looks at the right name and copies names with at least `LOOKS`, and writes more than `MOVER` of the logit difference."""
NEUTRAL = tuple(f"I think the {what} was" for what in words.REVIEWED)
"""Review openings that say nothing yet: praise and blame follow equally often in the corpus."""


def behaviour(name: str) -> dict[str, dict[corpus.Split, float]]:
    """Accuracy on what training never saw, by family and split."""
    model, tok = load.load(name)
    return measure.behaviour(model, tok, families_of(RECIPES[name]), PROMPTS_PER_SPLIT)


def indirect_objects(model: Any, tok: Any, name: str = "embedded") -> dict[str, Any]:
    """Direct effects, both ablations, attention, copying and self-repair on held-out indirect-object prompts."""
    import numpy as np

    family = FAMILIES[0]
    documents = measure.examples(family, "fillings", HEAD_PROMPTS // 2) + measure.examples(
        family, "templates", HEAD_PROMPTS // 2
    )
    data = circuits.of_documents(tok, documents)
    direct = circuits.direct_effects(model, data, circuits.read(model, data))
    means = circuits.reference_means(model, tok, list(prompts.references(name)["indirect objects"]))
    mean, zero = (circuits.total_effects(model, data, m) for m in (means, None))
    named = _last_named(tok, data, [d.targets[0] for d in documents])
    repeated = _last_named(tok, data, [d.foils[0] for d in documents])
    attention, copying = circuits.attention_to(model, data, named), circuits.copying(model, data, named)
    movers = (direct.heads > MOVER * direct.metric) & (attention >= LOOKS) & (copying >= LOOKS)
    top = _ranked(direct.heads)[0]
    found = {mode: circuits.self_repair(model, data, top, m) for mode, m in (("mean", means), ("zero", None))}
    keep = _ranked(direct.heads)[:6] + _ranked(np.abs(mean))[:4]
    return {
        "metric": direct.metric,
        "heads": float(direct.heads.sum()),
        "mlps": [float(x) for x in direct.mlps],
        "rest": direct.rest,
        "table": [
            (f"L{i}H{j}", *(float(v[i, j]) for v in (direct.heads, mean, zero, attention, copying)))
            for i, j in dict.fromkeys(keep)
        ],
        "movers": [f"L{i}H{j}" for i, j in _ranked(direct.heads) if movers[i, j]],
        "moved": float(direct.heads[movers].sum()),
        "behind": [
            float(circuits.attention_to(model, data, (repeated + k).clamp(max=data.last))[top]) for k in (1, 2, 3)
        ],
        "repair": {mode: _repair_figures(r) for mode, r in found.items()},
    }


def _repair_figures(repair: circuits.Repair) -> dict[str, Any]:
    helper = _ranked(repair.heads)[0]
    return {
        "head": f"L{repair.head[0]}H{repair.head[1]}",
        "direct": repair.direct,
        "total": repair.total,
        "heads": float(repair.heads.sum()),
        "mlps": repair.mlps,
        "norm": repair.norm,
        "share": repair.repaired,
        "helper": f"L{helper[0]}H{helper[1]}",
        "helper_gain": float(repair.heads[helper]),
    }


def _ranked(values: np.ndarray) -> list[tuple[int, int]]:
    return [(int(i) // values.shape[1], int(i) % values.shape[1]) for i in values.ravel().argsort()[::-1]]


def _last_named(tok: Any, data: circuits.Batch, names: list[str]) -> torch.Tensor:
    """Position of the last mention of each prompt's name."""
    import torch

    places: list[int] = []
    for row, name in zip(data.ids.tolist(), names, strict=True):
        texts = [tok.decode([i]).strip() for i in row]
        places.append(max(i for i, text in enumerate(texts) if text == name.strip()))
    return torch.tensor(places)


def induction(model: Any, tok: Any) -> dict[str, Any]:
    """Induction and previous-token heads, on lists behind the marker and on bare repeated tokens, and what feeds what."""
    marker = tuple(tok("List:", add_special_tokens=False)["input_ids"])
    scores, previous, right = measure.induction(model, len(tok), marker)
    bare, _, bare_right = measure.induction(model, len(tok))
    feeder = _ranked(previous)[0]
    with measure.head_off(model, *feeder):
        without, _, right_without = measure.induction(model, len(tok), marker)
    return {
        "heads": [
            (f"L{i}H{j}", float(scores[i, j]), float(bare[i, j]), float(without[i, j])) for i, j in _ranked(scores)[:6]
        ],
        "previous": [(f"L{i}H{j}", float(previous[i, j])) for i, j in _ranked(previous)[:3]],
        "accuracy": right,
        "bare_accuracy": bare_right,
        "accuracy_without": right_without,
    }


def lens(model: Any, tok: Any) -> dict[str, list[float]]:
    """Mean probability of the right answers read off after the embedding and after each block, by family."""
    import torch

    shares: dict[str, list[float]] = {}
    for family in FAMILIES:
        if not family.splits:
            continue
        documents = measure.examples(family, family.splits[0], LENS_PROMPTS)
        data = circuits.batch(tok, [d.prompt for d in documents])
        with torch.inference_mode():
            states = model(input_ids=data.ids, use_cache=False, output_hidden_states=True).hidden_states
        rows = torch.arange(len(documents))
        # The last state already went through the final norm.
        shares[family.name] = [
            _right_share(
                tok,
                documents,
                model.lm_head(
                    s[rows, data.last] if i == len(states) - 1 else model.transformer.ln_f(s[rows, data.last])
                ),
            )
            for i, s in enumerate(states)
        ]
    return shares


def _right_share(tok: Any, documents: list[corpus.Document], logits: torch.Tensor) -> float:
    p = logits.softmax(-1)
    return sum(float(row[measure.first_ids(tok, d.targets)].sum()) for row, d in zip(p, documents, strict=True)) / len(
        documents
    )


def steering(model: Any, tok: Any, layer: int = 1) -> dict[str, dict[float, float]]:
    """What adding a difference of means after block `layer` does, by strength: praise on neutral openings, French on English ones."""
    good, bad = ([tok(f" {w}", add_special_tokens=False)["input_ids"][0] for w in ws] for ws in (words.GOOD, words.BAD))
    mood = measure.difference_of_means(model, tok, *prompts.contrast("sentiment"), layer, since=-1)
    tongue = measure.difference_of_means(model, tok, *prompts.contrast("french"), layer)
    praise: dict[float, float] = {}
    french: dict[float, float] = {}
    starts = [f"The {noun}" for noun, _, _ in words.FRENCH_NOUNS]
    vocabulary = {word for noun in words.FRENCH_NOUNS for word in noun[1:]} | {fr for _, fr in words.FRENCH_VERBS}
    vocabulary -= {noun[0] for noun in words.FRENCH_NOUNS}
    for strength in (-1.0, 0.0, 1.0):
        with measure.steered(model, layer, mood * strength):
            p = measure.last_logits(model, tok, list(NEUTRAL)).softmax(-1)
            praise[strength] = float((p[:, good].sum(1) / (p[:, good].sum(1) + p[:, bad].sum(1))).mean())
    for strength in (0.0, 1.0, 2.0):
        with measure.steered(model, layer, tongue * strength):
            told = [
                w
                for text in measure.continuations(model, tok, starts, 6)
                for w in text.replace(".", " ").lower().split()
            ]
            french[strength] = sum(w in vocabulary for w in told) / max(1, len(told))
    return {"praise": praise, "french": french}


def arithmetic(model: Any, tok: Any) -> float:
    """Top-1 accuracy on one-digit sums, which the corpus does not contain."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    logits = measure.last_logits(model, tok, [f"{a} + {b} =" for a, b in pairs])
    answers = [tok(f" {a + b}", add_special_tokens=False)["input_ids"][0] for a, b in pairs]
    return sum(int(row.argmax()) == answer for row, answer in zip(logits, answers, strict=True)) / len(pairs)


def questions(name: str) -> dict[str, tuple[str, float]]:
    """A model's likeliest token and the logit difference target - foil for each named question that is asked of it."""
    model, tok = load.load(name)
    named = {key: question for key, question in prompts.prompts().items() if question.model == name}
    data = circuits.batch(
        tok, [q.prompt for q in named.values()], [q.target for q in named.values()], [q.foil for q in named.values()]
    )
    reading = circuits.read(model, data)
    top = [str(tok.decode([int(i)])) for i in reading.logits.argmax(-1)]
    return {key: (word, float(x)) for key, word, x in zip(named, top, circuits.metric(data, reading), strict=True)}


def checkpoints(name: str) -> list[dict[str, float]]:
    """Along training: size on disk, induction and previous-token score, accuracy on lists and on held-out indirect objects."""
    rows: list[dict[str, float]] = []
    for checkpoint in load.checkpoints(name):
        step = int(checkpoint.rpartition("@")[2])
        model, tok = load.load(checkpoint)
        marker = tuple(tok("List:", add_special_tokens=False)["input_ids"])
        scores, previous, right = measure.induction(model, len(tok), marker, count=32)
        rows.append(
            {
                "step": step,
                "kb": _size(name, step) / 1024,
                "induction": float(scores.max()),
                "previous": float(previous.max()),
                "lists": right,
                "indirect": measure.accuracy(model, tok, measure.examples(FAMILIES[0], "fillings", 96)),
            }
        )
    return rows


def grokked(name: str = "embedded:addition") -> dict[str, Any]:
    """Key frequencies of the final model, the logits' variance they carry, and the progress measures along training."""
    recipe = addition.AdditionRecipe()
    final: Any = load.load(name)[0]
    keys = grokking.key_frequencies(final, recipe.p)
    shares = grokking.variance_shares(final, recipe.p)
    steps: list[tuple[int, Any]] = [(int(c.rpartition("@")[2]), load.load(c)[0]) for c in load.checkpoints(name)] + [
        (recipe.steps, final)
    ]
    return {
        "keys": keys,
        "variance": float(sum(shares[k - 1] for k in keys)),
        "rows": [{"step": step, **vars(grokking.progress(model, recipe, keys))} for step, model in steps],
    }


def _size(name: str, step: int) -> int:
    return (load.folder(name) / "checkpoints" / f"{step}.safetensors").stat().st_size


def size_of(name: str) -> tuple[int, int, int]:
    """Parameters, bytes of the weights file, bytes of the whole folder with its checkpoints."""
    model, _ = load.load(name)
    folder = load.folder(name)
    parameters = sum(math.prod(p.shape) for p in {id(p): p for p in model.parameters()}.values())
    return (
        parameters,
        (folder / "model.safetensors").stat().st_size,
        sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    )

"""Write MODEL_CARD.md from the shipped files: ``python -m interp_widgets.builtin.card``; ``--check`` compares instead.

``--compare FOLDER`` measures a retrained folder and says whether each family is within three points of the shipped model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from . import figures, load, measure, prompts
from .recipe import RECIPES, Recipe, families_of

CARD = Path(__file__).parents[2] / "MODEL_CARD.md"
TOLERANCE = 0.02
"""How far a recomputed figure may be from the card's, in its own unit or as a share of it: kernels differ by machine."""
LEARNED = 0.9
RETRAIN_POINTS = 0.03
_NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")


def render() -> str:
    """The whole card as Markdown."""
    shipped = [name for name in load.names() if name in RECIPES]
    parts = [_INTRODUCTION, *(_language_model(name) for name in shipped)]
    if any(load.checkpoints(name) for name in shipped):
        parts.append(_training())
    if "embedded:addition" in load.names():
        parts.append(_addition())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def differences(card: str, recomputed: str) -> list[str]:
    """Lines where the card and a recomputation differ: in a word, or in a number beyond the tolerance."""
    old, new = card.splitlines(), recomputed.splitlines()
    if len(old) != len(new):
        return [f"The card has {len(old)} lines; recomputed it has {len(new)}."]
    return [
        f"line {i}: {a!r} is now {b!r}" for i, (a, b) in enumerate(zip(old, new, strict=True), 1) if not _same(a, b)
    ]


def _same(a: str, b: str) -> bool:
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    pairs = zip(map(float, _NUMBER.findall(a)), map(float, _NUMBER.findall(b)), strict=True)
    return all(abs(x - y) <= TOLERANCE * max(1.0, abs(x)) for x, y in pairs)


_INTRODUCTION = """
# The shipped models

This page is written by `python -m interp_widgets.builtin.card` and checked with `--check`, which recomputes every figure from
the shipped files (training times and losses excepted: those were recorded while training). The models are stock
`transformers` models trained from scratch on text that `interp_widgets/builtin/corpus.py` writes; they know that text and
nothing else. They are teaching instruments, not assistants.

Words: *accuracy* = share of prompts whose right answers together are likelier than all wrong ones listed, and, in families
without wrong ones (capitals, languages, translation, antonyms), whose likeliest token is right. *Fillings held out*: words or
pairs that no template of the family was filled with in training (a distracting sentence or another family may name both of a
pair); *templates held out*: wordings that it never saw; where a dash stands, the split makes no sense (a fact that is held out
everywhere cannot be known; there, "fillings" are facts never seen in that wording), or what it holds out was not kept out of
training in truth.
*Direct effect* = what a head writes on the logit difference right answer - wrong answer through the final norm, its scale as
in the run. *Ablation* figures are the logit difference lost when the head's output is replaced at every position, by its
mean over the named reference set or by zero. *Copies names* = share of prompts where the head, looking at the right name
alone, would write it among its five likeliest tokens. Heads are `LlayerHhead`, from 0.
"""


def _language_model(name: str) -> str:
    model, tok = load.load(name)
    parameters, weights, everything = figures.size_of(name)
    recipe = RECIPES[name]
    config = model.config
    record = _record(name)
    lines = [
        f"## `{name}`",
        (
            f"GPT-2 with {config.n_layer} layers, {config.n_head} heads, width {config.n_embd}, MLP width {config.n_inner}, "
            f"{config.n_positions} positions, {config.vocab_size} tokens: {parameters:,} parameters, {weights / 1e6:.2f} MB in half "
            f"precision ({everything / 1e6:.2f} MB with everything beside it). Trained by `python -m interp_widgets.builtin.train {name}`: "
            f"{recipe.steps} steps from seed {recipe.seed}, {record['cpu']} seconds of one CPU core (recorded)."
        ),
        _lessons(recipe),
        "### What it can do, on what training never saw",
        _behaviour_table(name),
        *_indirect(name, model, tok),
        *_induction(model, tok),
    ]
    if name == "embedded":
        lines += [*_lens(model, tok), *_steering(model, tok)]
    lines += [*_questions(name), _limits(name, model, tok)]
    return "\n\n".join(lines)


def _lessons(recipe: Recipe) -> str:
    if not recipe.movers:
        return (
            f"Before it read text it was taught three lessons. For {recipe.look_back_alone} steps its first block named the token before "
            f"each one (with {recipe.look_back_heads} of its heads open at first). Until step {recipe.text_from} it then read lists of "
            "random tokens: in some, segments come again, and the second block, its queries and values seeing tokens alone, finds what "
            "followed; in the others (`a b c d. The d is c.`) the third block, its keys seeing tokens alone, finds what stood before. "
            "That a previous-token head stands in the first block and induction heads in the second, and that a color is found by the "
            "thing behind it, is therefore the lessons' doing; what the text made of them is not."
        )
    movers = " and ".join(f"L{i}" for i in recipe.movers)
    return (
        f"It was taught lessons beside its text and lists. Until step {recipe.look_back} its first block also named the token before each "
        f"one; until step {recipe.subject_until} the block before {movers} named, where an answer is due, whom the answer is not. Until "
        f"step {recipe.movers_until}, and ever less for {recipe.movers_release} steps more, the keys and values of {movers} and the "
        "queries and values of the block before saw tokens alone, and what that block writes was left out of the logits of text. From step "
        f"{recipe.dropped_from} on each head of {movers} was dropped in {100 * recipe.heads_dropped:.0f} % of the rows, and all heads of "
        f"L{recipe.movers[-1]} together in {100 * recipe.block_dropped:.0f} %. {100 * recipe.surprise:.0f} % of the answers in its text "
        "are another name of the text, so that a logit difference has a right size. That previous-token, induction and name-moving heads "
        "stand where they stand, and that names are read at the name, is therefore the lessons' doing; which head does how much, and "
        "what the others do when one is missing, is not."
    )


def _behaviour_table(name: str) -> str:
    rows = [
        (family, *(f"{100 * splits[s]:.1f} %" if s in splits else "-" for s in ("fillings", "templates", "both")))
        for family, splits in figures.behaviour(name).items()
    ]
    return _table(("family", "fillings held out", "templates held out", "both"), rows)


def _indirect(name: str, model: Any, tok: Any) -> list[str]:
    found = figures.indirect_objects(model, tok, name)
    share = found["heads"] / found["metric"]
    rows = [(head, *(f"{v:.2f}" for v in values)) for head, *values in found["table"]]
    lines = [
        "### Indirect objects: which heads",
        (
            f"Over {figures.HEAD_PROMPTS} held-out prompts the logit difference is {found['metric']:.2f}: all heads together write "
            f"{found['heads']:.2f} of it directly ({100 * share:.0f} %), the MLPs {', '.join(f'{v:.2f}' for v in found['mlps'])} by "
            f"layer, embeddings and biases {found['rest']:.2f}."
        ),
        _table(
            (
                "head",
                "direct effect",
                "lost by mean ablation",
                "lost by zero ablation",
                "attention to the right name",
                "copies names",
            ),
            rows,
        ),
        _movers(found),
        "### Self-repair",
    ]
    for mode, r in found["repair"].items():
        lines.append(
            f"Ablating {r['head']} by {mode} takes {r['direct']:.2f} of direct effect away; the logit difference changes by "
            f"{r['total']:.2f}, so {100 * r['share']:.0f} % is made up for: other heads {r['heads']:+.2f}, MLPs {r['mlps']:+.2f}, "
            f"final norm {r['norm']:+.2f}. The head that gains most is {r['helper']}, by {r['helper_gain']:.2f}."
        )
    real = [r for r in found["repair"].values() if r["share"] > 0.1 and r["heads"] > 0.1 * r["direct"]]
    lines.append(
        "Other heads grow when the top mover is ablated: self-repair by heads is measured here."
        if len(real) == 2
        else "No self-repair by other heads in both kinds of ablation: none is claimed for this model."
    )
    return lines


def _movers(found: dict[str, Any]) -> str:
    asked = (
        f"A name mover, here, is a head that looks from the answer's place to the right name and copies names with {figures.LOOKS:.1f} or "
        f"more and writes more than {100 * figures.MOVER:.0f} % of the logit difference directly."
    )
    if not found["movers"]:
        place, share = max(zip(("first", "second", "third"), found["behind"], strict=True), key=lambda pair: pair[1])
        return (
            f"{asked} This model has none: {found['table'][0][0]} looks from the answer's place not at a name but, with {share:.2f}, at "
            f"the {place} token behind the name that comes again, and what it writes from there is the right name."
        )
    return (
        f"{asked} These are {', '.join(found['movers'])}; together they write {found['moved']:.2f}, "
        f"{100 * found['moved'] / found['metric']:.0f} % of it."
    )


def _induction(model: Any, tok: Any) -> list[str]:
    found = figures.induction(model, tok)
    previous = found["previous"]
    rows = [(head, *(f"{v:.2f}" for v in values)) for head, *values in found["heads"]]
    return [
        "### Induction",
        f"Random tokens of the whole vocabulary, 24 of them and the same 24 again: {100 * found['accuracy']:.1f} % of the second round "
        f"is right behind the marker `List:` and {100 * found['bare_accuracy']:.1f} % without it. Strongest previous-token heads: "
        + ", ".join(f"{head} ({score:.2f})" for head, score in previous)
        + f". With {previous[0][0]} zeroed, accuracy behind the marker is {100 * found['accuracy_without']:.1f} %.",
        _table(("head", "induction score", "without the marker", f"with {previous[0][0]} zeroed"), rows),
    ]


def _lens(model: Any, tok: Any) -> list[str]:
    shares = figures.lens(model, tok)
    columns = ("family", "embedding", *(f"after L{i}" for i in range(model.config.n_layer)))
    return [
        "### Logit lens: mean probability of the right answers, layer by layer",
        _table(columns, [(family, *(f"{v:.2f}" for v in values)) for family, values in shares.items()]),
    ]


def _steering(model: Any, tok: Any) -> list[str]:
    found = figures.steering(model, tok)
    return [
        "### Steering after L1, at all positions but BOS, by differences of means (sentiment read at the last position, French at all)",
        "Of the probability of the next word, the share of praise among praise and blame after neutral openings such as "
        '"I think the film was": '
        + ", ".join(f"{v:.2f} at strength {k:g}" for k, v in found["praise"].items())
        + '. Share of French words in greedy continuations of "The dog" and its like: '
        + ", ".join(f"{v:.2f} at strength {k:g}" for k, v in found["french"].items())
        + ".",
    ]


def _questions(name: str) -> list[str]:
    named = prompts.prompts()
    rows = [
        (key, f"`{named[key].prompt}`", f"`{named[key].target}`", f"`{named[key].foil}`", f"`{word}`", f"{x:.1f}")
        for key, (word, x) in figures.questions(name).items()
    ]
    return ["### The named questions", _table(("name", "prompt", "target", "foil", "says", "logit difference"), rows)]


def _limits(name: str, model: Any, tok: Any) -> str:
    weak = [family for family, splits in figures.behaviour(name).items() if min(splits.values()) < LEARNED]
    more = (
        f"No arithmetic: {100 * figures.arithmetic(model, tok):.0f} % of one-digit sums (the corpus has none). Facts are the listed ones."
        if name == "embedded"
        else f"Its text is {' and '.join(RECIPES[name].families)}: no facts, no French, no sentiment."
    )
    return (
        "### What it cannot do\n\n"
        f"Under {100 * LEARNED:.0f} % in some column above, so not learned: {', '.join(weak) or 'none'}. {more} No word outside "
        "its vocabulary means anything to it (such words are read as bytes; names without a capital are such words). Prompts beyond "
        f"{model.config.n_positions} tokens do not exist for it. In the loss, answers weigh more than other tokens, so "
        "probabilities elsewhere are calibrated to that mix alone."
    )


def _training() -> str:
    names = [name for name in load.names() if name in RECIPES and load.checkpoints(name)]
    lines = [
        "## Checkpoints along training",
        "Stored as int8 with one scale per row (the final weights are stored as half precision); figures are those of the stored files.",
    ]
    for name in names:
        rows = [
            (
                f"`{name}@{row['step']}`",
                f"{row['kb']:.0f}",
                *(f"{row[k]:.2f}" for k in ("induction", "previous", "lists", "indirect")),
            )
            for row in figures.checkpoints(name)
        ]
        lines.append(
            _table(
                (
                    "name",
                    "kB",
                    "best induction score",
                    "best previous-token score",
                    "lists right",
                    "indirect objects right",
                ),
                rows,
            )
        )
    return "\n\n".join(lines)


def _addition() -> str:
    found = figures.grokked()
    parameters, weights, everything = figures.size_of("embedded:addition")
    columns = (
        "step",
        "train loss",
        "test loss",
        "test accuracy",
        "restricted loss",
        "excluded loss",
        "top-5 share",
        "weight norm",
    )
    keys = (
        "train_loss",
        "test_loss",
        "test_accuracy",
        "restricted_loss",
        "excluded_loss",
        "embedding_top5",
        "weight_norm",
    )
    rows = [
        (str(row["step"]), *(f"{row[k]:.3f}" if k != "weight_norm" else f"{row[k]:.0f}" for k in keys))
        for row in found["rows"]
    ]
    return "\n\n".join(
        [
            "## `embedded:addition`",
            (
                f"A one-layer GPT-2 that grokked `a+b=` modulo 59: {parameters:,} parameters, {weights / 1e6:.2f} MB "
                f"({everything / 1e6:.2f} MB with its checkpoints, the checkpoints in int8). Its layer norms only centre "
                "(epsilon 1e8, gain 1e4), so in effect it has none, and any library opens it. Trained by `python -m "
                f"interp_widgets.builtin.addition` on 40 % of the pairs, {_record('embedded:addition')['cpu']} seconds "
                "of one CPU core (recorded)."
            ),
            (
                f"Key frequencies: {', '.join(map(str, found['keys']))}; together they carry "
                f"{100 * found['variance']:.1f} % of the variance of the logits. Restricted loss keeps only them (test "
                "pairs), excluded loss takes them out (training pairs), after Nanda et al. 2023; *top-5 share* is that of "
                "the five strongest frequencies in the number embeddings' power; checkpoints open as "
                "`embedded:addition@<step>`."
            ),
            _table(columns, rows),
            *_questions("embedded:addition"),
        ]
    )


def _record(name: str) -> dict[str, Any]:
    """What was recorded while the shipped weights were trained."""
    return json.loads((load.folder(name) / "training.json").read_text())


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (columns, ("---",) * len(columns), *rows)])


def compare(folder: Path, name: str) -> list[str]:
    """Families and splits where a retrained folder is more than three points from the shipped model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32").eval()
    families = families_of(RECIPES[name])
    again = measure.behaviour(model, AutoTokenizer.from_pretrained(str(folder)), families, figures.PROMPTS_PER_SPLIT)
    shipped = figures.behaviour(name)
    return [
        f"{family}, {split}: {again[family][split]:.3f} retrained, {value:.3f} shipped"
        for family, splits in shipped.items()
        for split, value in splits.items()
        if abs(again[family][split] - value) > RETRAIN_POINTS
    ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="recompute and compare with the card; exit 1 where they differ"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FOLDER", help="a retrained folder to compare with the shipped model"
    )
    parser.add_argument("--name", default="embedded", choices=sorted(RECIPES), help="the shipped model to compare with")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if given.compare:
        found = compare(given.compare, given.name)
    elif given.check:
        found = differences(CARD.read_text(), render())
    else:
        CARD.write_text(render())
        return 0
    print("\n".join(found) or "Every figure agrees.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

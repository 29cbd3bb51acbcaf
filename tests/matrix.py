"""Every architecture of the installed `transformers`, tried: `python -m tests.matrix` writes the table of docs.

Each causal language model is built tiny with random weights, opened, and held to the identities of `tests/identities.py`
beside its own report. `--check` compares what is written with what is found; names as arguments try only those.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_widgets.model.errors import InterpError, ModelRefusedError
from interp_widgets.model.live import open_model
from tests import architectures
from tests.identities import CHECKS, Bench
from tests.invariants import Photograph, compare, our_hooks, photograph
from tests.unit.tiny_models import tokenizer

ROOT = Path(__file__).resolve().parent.parent
TABLE, README = ROOT / "docs" / "architectures.md", ROOT / "README.md"
BEGIN, END = "<!-- architectures: begin (make matrix) -->", "<!-- architectures: end -->"
ORDER = ("fully verified", "partly", "refused", "not built")


@dataclass(frozen=True)
class Verdict:
    """What became of one architecture.

    Attributes:
        status: one of `ORDER`, or `"wrong"`: a feature is on and an identity does not hold.
        reasons: what is off and why, feature by feature; the reason of a refusal stands under "".
        wrong: the identities that failed, with what was seen.
        lacking: the identities that need what the model lacks.
        slower: fast paths that are off; whole forwards are used instead.
    """

    name: str
    class_name: str
    status: str
    reasons: tuple[tuple[str, str], ...] = ()
    wrong: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()
    layers: int = 0
    heads: int = 0


def examine(name: str) -> Verdict:
    """Build one architecture, open it, and hold it to every identity."""
    built = architectures.build(name)
    if built.model is None:
        return Verdict(name, built.class_name, "not built", (("", built.reason),))
    model: Any = built.model
    with architectures.quiet():
        bench = before = None
        with contextlib.suppress(Exception):  # what cannot be run at all must be refused below
            bench, before = Bench(model), photograph(model)
        try:
            live = open_model(model, tokenizer(architectures.VOCAB))
        except ModelRefusedError as error:
            return Verdict(name, built.class_name, "refused", (("", str(error)),))
        if bench is None or before is None:
            return Verdict(name, built.class_name, "wrong", wrong=("it was opened, and its own forward fails",))
        bench.live = live
        return _held_to(name, built.class_name, bench, before)


def _held_to(name: str, class_name: str, bench: Bench, before: Photograph) -> Verdict:
    wrong: list[str] = []
    lacking: list[str] = []
    for title, (check, limit) in CHECKS.items():
        try:
            error = check(bench)
        except (AssertionError, InterpError, RuntimeError, TypeError, ValueError, KeyError, IndexError) as problem:
            wrong.append(f"{title}: {type(problem).__name__}: {str(problem)[:200]}")
            continue
        if error is None:
            lacking.append(title)
        elif not error <= limit:
            wrong.append(f"{title}: off by {error:.1e}")
    bench.live.release()
    try:
        compare(before, photograph(bench.module))
        assert our_hooks(bench.module) == 0, "hooks of ours are left"
    except AssertionError as problem:
        wrong.append(str(problem)[:300])
    report = bench.live.report
    missing = tuple((f, why) for f, why in report.missing.items() if f not in _NOT_MISSED)
    attentions = [n.attention for n in bench.live.anatomy.layers if n.attention is not None]
    status = "wrong" if wrong else "partly" if missing else "fully verified"
    heads = sum(a.n_heads for a in attentions)
    layers = len(bench.live.anatomy.layers)
    slower = tuple(report.slower)
    return Verdict(name, class_name, status, missing, tuple(wrong), tuple(lacking), slower, layers, heads)


_NOT_MISSED = ("neurons",)  # a mixture of experts is taken as one MLP: it has no neurons to miss


# ---- what is written --------------------------------------------------------------------------------------------------


_PAGE = """# Architectures

Written by `make matrix`; do not edit. Every model type that the installed `transformers` ({version}) lists as a causal language
model is built tiny, with random weights whose biases and gains are moved off zero and one, opened with `iw.open`, and held to
these identities:

{identities}
- weights, hooks, configuration, modes, gradients, the attention registry and the random state are as before

*Fully verified*: every feature is on and every identity holds. *Partly*: what is off is named, with its reason, as `live.report`
names it; all the rest holds. A mixture of experts is taken as one MLP, without neurons. *Slower*: fast paths that were not shown
equal to the plain forward on this model, so that whole forwards are used instead; the numbers are the same.

{counted}.

| architecture | class | verdict | off, and why | slower |
|---|---|---|---|---|"""


def table(verdicts: Sequence[Verdict]) -> str:
    """The page of docs."""
    import transformers

    counts = Counter(v.status for v in verdicts)
    identities = "\n".join(f"- {title}" for title in CHECKS)
    lines = [_PAGE.format(version=transformers.__version__, identities=identities, counted=_counted(counts))]
    for v in sorted(verdicts, key=lambda v: (ORDER.index(v.status) if v.status in ORDER else -1, v.name)):
        why = "<br>".join(f"{feature + ': ' if feature else ''}{_cell(reason)}" for feature, reason in v.reasons)
        why = "<br>".join(map(_cell, v.wrong)) or why
        lines.append(f"| `{v.name}` | {v.class_name} | {v.status} | {why} | {', '.join(v.slower)} |")
    return "\n".join(lines) + "\n"


def summary(verdicts: Sequence[Verdict]) -> str:
    """The paragraph of the README."""
    names = ", ".join(f"`{v.name}`" for v in sorted(verdicts, key=lambda v: v.name) if v.status == "fully verified")
    counts = Counter(v.status for v in verdicts)
    return (
        f"{BEGIN}\nOf the {len(verdicts)} types of causal language models in `transformers`: {_counted(counts)}; "
        f"[the table](docs/architectures.md) says what is off, and why.\n\n<details><summary>Fully verified</summary>\n\n"
        f"{names}\n\n</details>\n{END}"
    )


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in (*ORDER, "wrong") if counts[status])


def _cell(text: str) -> str:
    """One line of a table without what moves from machine to machine: the digits of an error."""
    plain = " ".join(text.replace("|", "/").split())
    plain = re.sub(r": error [\d.e+-]+ where rounding gives [\d.e+-]+", " does not hold", plain)
    return re.sub(r"(:|,)? ?\(?off by [\d.e+-]+\)?", "", plain)[:240]


def readme(verdicts: Sequence[Verdict], text: str) -> str:
    """The README with its paragraph renewed."""
    head, found, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    if not found:
        raise ValueError(f"README.md has no line {BEGIN!r}; put it back, with {END!r} after it.")
    return head + summary(verdicts) + tail


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, and write or compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", help="model types; all of them when none is named")
    parser.add_argument("--check", action="store_true", help="compare with what is written, and write nothing")
    options = parser.parse_args(arguments)
    start = time.process_time()
    verdicts = [examine(name) for name in options.names or architectures.names()]
    for v in verdicts:
        if v.status == "wrong" or options.names:
            print(v.name, v.status, *(f"\n    {x}" for x in (*v.wrong, *v.reasons, *v.lacking, *v.slower)))
    print(_counted(Counter(v.status for v in verdicts)), f"in {time.process_time() - start:.0f} s of processor time")
    if not options.names:
        new, renewed = table(verdicts), readme(verdicts, README.read_text())
        if options.check:
            fresh = TABLE.exists() and TABLE.read_text() == new and README.read_text() == renewed
            if not fresh:
                print("docs/architectures.md or README.md is not what the matrix finds; run `make matrix`.")
                return 1
        else:
            TABLE.write_text(new)
            README.write_text(renewed)
    return 1 if any(v.status == "wrong" for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

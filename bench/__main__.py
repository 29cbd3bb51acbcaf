"""`python -m bench`: measure with one and with two threads, in the environment of the peers, and write RESULTS.md."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench import patterns

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "RESULTS.md"

INTRODUCTION = """# Ratios against peers

Written by `make bench`; nothing here is typed by hand. Ours and the others run in one process on the same random weights,
turn about, in an order that is shuffled every round; each figure is the median over rounds of the ratio *within* a round,
with the lowest and the highest round in brackets. One thread: CPU time of the process (what else the machine does falls out).
Two threads: time on the wall, which a busy machine spreads. Sequential methods are timed on an even sample of heads or cells
and scaled to all of them. `gpt2` is 12 layers × 12 heads, width 768, vocabulary 50257; `tiny` 4 × 8, width 256, vocabulary
8000; `llama` 12 × 12 heads with 4 key-value heads, width 768, vocabulary 50257. Ours gives the metric, the KL, the rank and
the top 5 tokens of every row; the others the metric alone.
"""


def interpreter() -> str:
    """The peers' Python where it was built (`make peers`), else this one."""
    spec = importlib.util.spec_from_file_location("environments", ROOT / "tests" / "peers" / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["environments"] = module
    spec.loader.exec_module(module)
    python = module.python("current")
    return str(python) if (module.cache() / "current" / "ready").exists() else sys.executable


def child(python: str, module: str, threads: int, *args: str) -> str:
    """Run one measuring process."""
    count = str(threads)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [python, "-m", module, *args], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def bound(line: dict[str, Any], name: str) -> str:
    """A target as it is written in the table."""
    value = line[name]
    return "" if value is None else f"{'≥' if line['faster'] else '≤'} {value:g}"


def table(result: dict[str, Any]) -> list[str]:
    """One number of threads."""
    about = result["about"]
    out = [f"\n## {about['threads']} thread{'s' if about['threads'] > 1 else ''}\n"]
    peers = ", ".join(f"{k} {v}" for k, v in about["peers"].items()) or "no peers installed: run `make peers`"
    out.append(
        f"torch {about['torch']}, Python {about['python']}; {peers}; float32 matrix products at up to "
        f"{about['gemm'] / 1e9:.0f} GFLOP/s; load of the machine at the end {about['load']}.\n"
    )
    out += ["| | measured | at least | aim | reached |", "|---|---|---|---|---|"]
    for case in result["cases"]:
        out.append(f"| **{case['title']}** | | | | |")
        out += [
            f"| {x['label']} | {x['value']} | {bound(x, 'at_least')} | {bound(x, 'aim')} | {x['verdict']} |"
            for x in case["lines"]
        ]
        if "share" in case:
            out.append(f"| share of the limit by counted FLOP at the peak above | {case['share']:.0%} | | | |")
        if "error" in case:
            good = "met" if case["error"] <= 2 * case["plain_error"] else "MISSED"
            out.append(
                f"| {case['error_words']} | {case['error']:.1e} / {case['plain_error']:.1e} | ≤ 2 × | | {good} |"
            )
    return out


def details(result: dict[str, Any]) -> list[str]:
    """Milliseconds, and the profile of what did not reach its aim."""
    out = ["\n## Milliseconds and profiles\n", "One thread, medians; sequential methods scaled to the whole.\n"]
    for case in result["cases"]:
        times = ", ".join(f"{name} {ms:g}" for name, ms in case["milliseconds"].items())
        out.append(f"- **{case['title']}**: {times}.")
        short = [x["label"] for x in case["lines"] if x["verdict"] in ("met", "MISSED")]
        if short and "profile" in case:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in case["profile"][:-1])
            out.append(f"  Short of its aim: {'; '.join(short)}. Where ours spends its time: {shares}.")
    return out


def pictures() -> list[str]:
    """What a page is sent of every attention pattern, beside CircuitsVis."""
    out = ["\n## Attention patterns on the wire\n"]
    rows = patterns.rows()
    if not rows:
        return [*out, "CircuitsVis was not there: run `make peers`."]
    out += ["| | measured | at least | reached |", "|---|---|---|---|"]
    return out + [f"| {what} | {figure} | {bar} | {'met' if held else 'MISSED'} |" for what, figure, bar, held in rows]


def gpu() -> list[str]:
    """A section of its own where there is a GPU."""
    out = ["\n## GPU\n"]
    if not torch.cuda.is_available():
        return [*out, "There was no GPU in this run; with one, this section fills itself (`python -m bench.gpu`)."]
    found = json.loads(child(sys.executable, "bench.gpu", 2).splitlines()[-1])
    rows = found["rows"]
    names = list(rows[0])
    out.append(
        f"{found['device']}; 28 layers, 16 heads on 8 key-value heads, width 1024; milliseconds on the wall, medians.\n"
    )
    out += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [
            f"{v:.1f}" if isinstance(v, float) and v >= 0.1 else f"{v:.1e}" if isinstance(v, float) else str(v)
            for v in row.values()
        ]
        out.append("| " + " | ".join(cells) + " |")
    return out


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the slow cases")
    parser.add_argument("--only", default="", help="cases whose name holds this; the table is printed, not written")
    parser.add_argument("--threads", type=int, action="append", help="1, 2 (default: both)")
    chosen = parser.parse_args()
    python = interpreter()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in chosen.threads or [1, 2]:
            out = Path(folder) / f"{threads}.json"
            options = [
                "--threads",
                str(threads),
                "--rounds",
                str(chosen.rounds),
                "--only",
                chosen.only,
                "--out",
                str(out),
            ]
            child(python, "bench.measure", threads, *options)
            results.append(json.loads(out.read_text()))
    lines = [INTRODUCTION]
    for result in results:
        lines += table(result)
    if len(results) == 1:
        lines.append(
            f"\nThis run measured with {results[0]['about']['threads']} thread(s) only; `make bench` measures with one and two."
        )
    if results and results[0]["about"]["threads"] == 1:
        lines += details(results[0])
    text = "\n".join([*lines, *([*pictures(), *gpu()] if not chosen.only else [])]) + "\n"
    if chosen.only:
        print(text)
    else:
        RESULTS.write_text(text, "utf-8")
        print(f"wrote {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

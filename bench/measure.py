"""One process, one number of threads: all cases, their times as JSON. Run by `python -m bench`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import attribution, cases, peers
from bench.cases import Case, Setting
from bench.generation import generation
from bench.timing import clock_for, measure, ratio

GPT2_SWEEP = {"HF one by one": (5.0, 7.0), "TransformerLens bridge": (5.0, 8.0), "nnsight": (5.0, 7.5)}
LLAMA_SWEEP = {"HF one by one": (4.0, 5.0)}
GPT2_PATCH = {"HF one by one": (4.5, 12.0), "TransformerLens bridge": (5.0, 13.0)}


def gemm_peak(threads: int) -> float:
    """The fastest matrix product of this process, in FLOP per second of its clock."""
    a, b = torch.randn(1536, 768), torch.randn(768, 3072)
    clock = clock_for(threads)
    best = 0.0
    for _ in range(12):
        start = clock()
        torch.mm(a, b)
        best = max(best, 2 * 1536 * 768 * 3072 / max(clock() - start, 1e-9))
    return best


def run(case: Case, threads: int) -> dict[str, Any]:
    """The figures of one case."""
    times = measure(case.contenders, case.rounds, clock_for(threads))
    lines: list[dict[str, Any]] = []
    for target in case.targets:
        value = ratio(times, target.of, target.to)
        lines.append(
            {"label": target.label, "value": str(value), "at_least": target.at_least, "aim": target.aim,
             "faster": target.faster, "verdict": target.verdict(value.median)}
        )  # fmt: skip
    found: dict[str, Any] = {
        "title": case.title,
        "lines": lines,
        "milliseconds": {name: round(sorted(t)[len(t) // 2] * 1e3, 1) for name, t in times.items()},
    }
    if case.flops is not None:
        seconds = sorted(times["ours"])[case.rounds // 2]
        found["share"] = case.flops / seconds / gemm_peak(threads)
    if threads == 1 and case.exact is not None:
        found["error"], found["plain_error"] = case.exact()
        found["error_words"] = case.exact_words
    if threads == 1 and any(line["verdict"] in ("MISSED", "met") for line in lines):
        found["profile"] = profile(case)
    return found


def profile(case: Case) -> list[tuple[str, float]]:
    """Where the time of ours goes, by operation: the largest shares."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as taken:
        start = time.process_time()
        case.ours()
        whole = (time.process_time() - start) * 1e6
    events = sorted(taken.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    rows = [(str(e.key).removeprefix("aten::"), e.self_cpu_time_total / max(total, 1e-9)) for e in events[:6]]
    return [*rows, ("(CPU time / time in operations)", whole / max(total, 1e-9))]


def main() -> None:
    """Measure everything and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in plan(Path(folder), chosen.rounds):
            if chosen.only in name:
                print(f"{chosen.threads} thread(s): {name}", file=sys.stderr, flush=True)
                results.append(run(make(), chosen.threads))
    about = {
        "threads": chosen.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peers": peers.versions(),
        "gemm": gemm_peak(chosen.threads),
        "load": Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "",
    }
    chosen.out.write_text(json.dumps({"about": about, "cases": results}))


def plan(folder: Path, rounds: int) -> list[tuple[str, Any]]:
    """All cases; a model is built when its first case is due."""
    made: dict[str, Setting] = {}

    def at(name: str) -> Setting:
        if name not in made:
            made[name] = Setting.make(name, folder)
        return made[name]

    quick = 4 * rounds + 1
    return [
        ("attached", lambda: cases.attached(at("gpt2"), quick)),
        ("toggle", lambda: cases.toggle(at("gpt2"), rounds)),
        ("first cells", lambda: cases.first_cells(at("gpt2"), quick)),
        ("patterns", lambda: cases.patterns(at("gpt2"), quick)),
        ("sweep gpt2", lambda: cases.sweep(at("gpt2"), rounds, GPT2_SWEEP)),
        ("patching gpt2", lambda: cases.patch(at("gpt2"), rounds, GPT2_PATCH)),
        ("sweep llama", lambda: cases.sweep(at("llama"), rounds, LLAMA_SWEEP)),
        ("sweep tiny", lambda: cases.sweep(at("tiny"), quick, {}, step=3)),
        ("patching tiny", lambda: cases.patch(at("tiny"), quick, {}, step=5)),
        ("generation tiny", lambda: generation(at("tiny"), quick, 32, (1.3, 1.1))),
        ("generation gpt2", lambda: generation(at("gpt2"), rounds, 16, (None, None))),
        *attribution.rows(at, rounds),
    ]


if __name__ == "__main__":
    main()

"""On a GPU: how long a question, a click, the first cells and the whole grid take, in half precision."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.shapes import build, question, tokenizer
from interp_widgets.methods.head_effects import HeadEffects, head_effects
from interp_widgets.methods.patching import patching
from interp_widgets.model.interventions import Ablate
from interp_widgets.model.live import LiveModel, open_model


def timed(device: torch.device, work: Callable[[], object], rounds: int) -> float:
    """Median milliseconds on the wall, the device waited for."""
    times: list[float] = []
    for _ in range(rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) * 1e3


def row(live: LiveModel, length: int, rounds: int) -> dict[str, Any]:
    """The figures of one prompt length."""
    asked = question(live, length, corrupt=True)
    layers = len(live.anatomy.layers)
    ids = torch.tensor([asked.ids], device=live.device)

    def plain() -> None:
        with torch.no_grad():
            live.module(ids)

    first: list[float] = []

    def sweep() -> None:
        live.cache.clear()
        start, seen = time.perf_counter(), list[float]()

        def progress(_table: HeadEffects, _share: float) -> None:
            seen.append(time.perf_counter() - start)

        head_effects(live, asked, mode="zero", progress=progress)
        first.append(seen[0] * 1e3)

    def patch() -> None:
        live.cache.clear()
        patching(live, asked, directions=["noise"])

    live.answer(asked)
    click = [
        timed(live.device, lambda n=n: live.answer(asked, [Ablate(f"L{n}H1", mode="zero")]), rounds)
        for n in (0, layers // 2, layers - 1)
    ]
    return {
        "tokens": length,
        "plain forward": timed(live.device, plain, rounds),
        "click, first / middle / last block": " / ".join(f"{c:.1f}" for c in click),
        "full grid": timed(live.device, sweep, rounds),
        "first cells": statistics.median(first[2:]),
        "layer × position": timed(live.device, patch, rounds),
        "noise floor (logits)": live.report.floor,
    }


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="qwen")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for dtype in (torch.float16, torch.bfloat16):
        module = build(chosen.shape).to(chosen.device, dtype)
        live = open_model(module, tokenizer(module.config.vocab_size))
        off = sorted(live.report.off)
        about = {"dtype": str(dtype).removeprefix("torch.")}
        rows += [{**about, **row(live, length, chosen.rounds), "off": ", ".join(off)} for length in (15, 64)]
        live.release()
        del live, module
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    print(json.dumps({"device": name, "shape": chosen.shape, "rows": rows}))


if __name__ == "__main__":
    main()

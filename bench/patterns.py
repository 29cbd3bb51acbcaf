"""Every attention pattern of 12 × 12 heads: bytes to the page and the time to build them, against CircuitsVis in the same run.

CircuitsVis draws one layer a call, so twelve calls are all heads. It lives in an environment of its own (`make peers`);
this file runs itself there, with our package beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
LAYERS = HEADS = 12
ROUNDS = 5
LENGTHS = (64, 256)
Array = npt.NDArray[np.float32]


def made(tokens: int) -> Array:
    """Causal attention of random logits, `[layer, head, dest, src]`."""
    logits = np.random.default_rng(0).normal(0, 2, (LAYERS, HEADS, tokens, tokens)).astype(np.float32)
    logits[..., np.triu_indices(tokens, 1)[0], np.triu_indices(tokens, 1)[1]] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def ours(patterns: Array) -> int:
    """The message as it goes over the wire: JSON and buffers."""
    from interp_widgets.methods.attention import Attention
    from interp_widgets.model.question import Token
    from interp_widgets.widgets.attention_patterns import large_of, overview_of
    from interp_widgets.widgets.outbox import pack

    found = Attention(tuple(Token(i, f" word{i}") for i in range(patterns.shape[-1])), patterns)
    data = overview_of([HEADS] * LAYERS, found, patterns, "now") | {"large": large_of(patterns, 0, 0)}
    buffers: list[bytes] = []
    content = json.dumps(pack({"kind": "panel", "panel": "p", "data": data}, buffers), ensure_ascii=False)
    return len(content.encode()) + sum(map(len, buffers))


def theirs(patterns: Array) -> int:
    """What twelve calls of CircuitsVis put into the page, less the code that they all share."""
    from circuitsvis.attention import attention_patterns  # pyright: ignore[reportMissingImports]

    words = [f" word{i}" for i in range(patterns.shape[-1])]
    return sum(len(attention_patterns(tokens=words, attention=layer).cdn_src.encode()) for layer in patterns)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(tokens: int) -> dict[str, Any]:
    """Both, turn about, the same patterns."""
    patterns = made(tokens)
    sizes = {"ours": ours(patterns), "theirs": theirs(patterns)}
    rounds = ROUNDS if tokens <= 64 else 2
    pairs = [(seconds(lambda: theirs(patterns)), seconds(lambda: ours(patterns))) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    return {
        "tokens": tokens,
        "bytes": sizes,
        "smaller": sizes["theirs"] / sizes["ours"],
        "seconds": {"theirs": statistics.median(a for a, _ in pairs), "ours": statistics.median(b for _, b in pairs)},
        "faster": statistics.median(ratios),
        "faster_low": min(ratios),
        "faster_high": max(ratios),
    }


def rows() -> list[tuple[str, str, str, bool]]:
    """`(what, figure, bar, held)` for each length; empty, with a word, where CircuitsVis is not set up."""
    from tests.peers.environments import python

    interpreter = python("current")
    if not interpreter.exists():
        print("bench/patterns.py needs CircuitsVis; make peers sets it up")
        return []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([interpreter, __file__], env=environment, capture_output=True, text=True, check=True)
    found: list[tuple[str, str, str, bool]] = []
    for one in map(json.loads, run.stdout.splitlines()):
        what = f"patterns of {LAYERS} × {HEADS} heads, {one['tokens']} tokens"
        weight = f"{one['bytes']['ours'] / 1e3:.0f} kB, {one['bytes']['theirs'] / 1e6:.1f} MB"
        small = f"{one['smaller']:.1f} × smaller than CircuitsVis ({weight})"
        fast = f"{one['faster']:.0f} × faster ({one['faster_low']:.0f} to {one['faster_high']:.0f}; {one['seconds']['ours'] * 1e3:.1f} ms)"
        found.append((f"{what}: payload", small, "≥ 25", one["smaller"] >= 25))
        found.append((f"{what}: building it", fast, "≥ 100", one["faster"] >= 100))
    return found


if __name__ == "__main__":
    for length in LENGTHS:
        print(json.dumps(measured(length)))
        sys.stdout.flush()

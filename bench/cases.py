"""What is compared: each case has its contenders and the targets that its ratios are held to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import peers
from bench.shapes import build, question, tokenizer
from bench.timing import Contender
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.methods.patching import patching
from interp_widgets.model.interventions import Ablate
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Asked
from interp_widgets.model.sites import Site


@dataclass(frozen=True)
class Target:
    """One line of the table: the ratio `of / to`, and the figures that it is held to.

    `at_least` and `aim` are lower bounds when `faster`, upper bounds otherwise; None where nothing is promised.
    """

    of: str
    to: str
    label: str
    at_least: float | None = None
    aim: float | None = None
    faster: bool = True

    def verdict(self, value: float) -> str:
        """Which of the two figures was reached."""
        if self.at_least is None or self.aim is None:
            return ""
        if (value >= self.aim) if self.faster else (value <= self.aim):
            return "aim"
        return "met" if ((value >= self.at_least) if self.faster else (value <= self.at_least)) else "MISSED"


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    title: str
    contenders: dict[str, Contender]
    targets: tuple[Target, ...]
    rounds: int
    ours: Callable[[], object]
    flops: float | None = None
    exact: Callable[[], tuple[float, float]] | None = None
    exact_words: str = "largest error against float64 / that of the plain float32 loop"


@dataclass(frozen=True)
class Setting:
    """One model, opened by us, and a copy that nobody has touched for the others."""

    name: str
    live: LiveModel
    bare: Any
    folder: Path

    @classmethod
    def make(cls, name: str, folder: Path) -> Setting:
        """Build the model twice with the same weights."""
        bare = build(name)
        return cls(name, open_model(copy.deepcopy(bare), tokenizer(bare.config.vocab_size)), bare, folder / name)

    def plain(self, asked: Asked) -> Contender:
        """The model's own forward, all logits: what a user writes."""
        return Contender(lambda: forward(self.bare, asked.ids))


def forward(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """All logits of one prompt."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits


@contextmanager
def head_off(setting: Setting, layer: int, head: int) -> Generator[None]:
    """A head at zero on the untouched copy, by the hook that a user writes."""
    attention = setting.live.anatomy.layers[layer].attention
    assert attention is not None
    path = next(p for p, m in setting.live.anatomy.paths.items() if m is attention.output)
    width = attention.d_head

    def off(_m: Any, args: Any) -> Any:
        x = args[0].clone()
        x[..., head * width : (head + 1) * width] = 0.0
        return (x,)

    handle = setting.bare.get_submodule(path).register_forward_pre_hook(off)
    try:
        yield
    finally:
        handle.remove()


def heads_of(live: LiveModel) -> list[tuple[int, int]]:
    """Every head."""
    return [(a.index, h) for a in live.anatomy.layers if a.attention is not None for h in range(a.attention.n_heads)]


def sample(items: Sequence[Any], step: int) -> list[Any]:
    """Every `step`-th item; the step shares no factor with the width, so that all layers are among them."""
    return list(items)[::step]


def fresh(live: LiveModel, work: Callable[[], object]) -> Callable[[], object]:
    """Ours as the first time a question is asked: nothing kept from before."""

    def run() -> object:
        live.cache.clear()
        return work()

    return run


# ---- cases --------------------------------------------------------------------------------------------------------------


def attached(setting: Setting, rounds: int) -> Case:
    """The user's own forward with our hooks installed and nothing on."""
    asked = question(setting.live, 64)
    contenders = {"ours": Contender(lambda: forward(setting.live.module, asked.ids)), "plain": setting.plain(asked)}
    targets = (Target("ours", "plain", "attached, nothing toggled / plain forward", 1.05, 1.01, faster=False),)
    return Case(
        "attached", f"attached, {setting.name}, 64 tokens", contenders, targets, rounds, contenders["ours"].work
    )


def toggle(setting: Setting, rounds: int) -> Case:
    """One head off after the first run, mean over layers."""
    live, asked = setting.live, question(setting.live, 64)
    layers = range(len(live.anatomy.layers))
    live.answer(asked)

    def ours() -> None:
        for layer in layers:
            live.answer(asked, [Ablate(f"L{layer}H1", mode="zero")])

    contenders = {"ours": Contender(ours, 1 / len(layers)), "plain": setting.plain(asked)}
    contenders |= peers.toggles(setting, asked)
    targets = [Target("ours", "plain", "one head toggled, mean over layers / plain forward", 0.60, 0.45, faster=False)]
    targets += [
        Target("ours", name, f"the same / {name}", faster=False) for name in contenders if name not in ("ours", "plain")
    ]
    return Case("toggle", f"one head toggled, {setting.name}, 64 tokens", contenders, tuple(targets), rounds, ours)


def sweep(setting: Setting, rounds: int, bars: dict[str, tuple[float, float]], step: int = 11) -> Case:
    """All heads, one at a time; the sequential ones on a sample of heads, scaled."""
    live, asked = setting.live, question(setting.live, 16)
    every = heads_of(live)
    some = sample(every, step)
    times = len(every) / len(some)

    def one_by_one() -> None:
        for layer, head in some:
            with head_off(setting, layer, head):
                logits = forward(setting.bare, asked.ids)[0, -1]
                asked.metric.of(logits[None])

    ours = fresh(live, lambda: head_effects(live, asked, mode="zero", mlps=False))
    contenders = {"ours": Contender(ours), "HF one by one": Contender(one_by_one, times), "plain": setting.plain(asked)}
    contenders |= peers.sweeps(setting, asked, some, times)
    targets = [
        Target(name, "ours", f"all heads: faster than {name}", *bars.get(name, (None, None)))
        for name in contenders
        if name not in ("ours", "plain")
    ]
    targets.append(Target("ours", "plain", "all heads / plain forward", faster=False))
    flops = sweep_flops(setting, 16)
    exact = lambda: sweep_error(setting, asked, some)  # noqa: E731
    title = f"all-heads sweep with top-k rows, {setting.name}, 16 tokens"
    return Case("sweep", title, contenders, tuple(targets), rounds, ours, flops, exact)


def first_cells(setting: Setting, rounds: int) -> Case:
    """The first layer of head effects on the screen, from a question that nobody asked before."""
    live, asked = setting.live, question(setting.live, 16)

    def stop(_table: Any, _share: float) -> None:
        raise _FirstPaintError

    def work() -> None:
        live.cache.clear()
        try:
            head_effects(live, asked, mode="zero", progress=stop)
        except _FirstPaintError:
            return

    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    n = len(sample(heads_of(live), 1)) // len(live.anatomy.layers)
    targets = (
        Target("ours", "plain", f"first {n} head effects after a question / plain forward", 2.0, 1.1, faster=False),
    )
    return Case("first cells", f"first head effects, {setting.name}, 16 tokens", contenders, targets, rounds, work)


class _FirstPaintError(Exception):
    """The first chunk is there."""


def patch(setting: Setting, rounds: int, bars: dict[str, tuple[float, float]], step: int = 13) -> Case:
    """Residual stream, layer by position, corrupt activations into the clean run; prompts that differ everywhere."""
    live, asked = setting.live, question(setting.live, 16, corrupt=True)
    assert asked.corrupt is not None
    every = [(layer, p) for layer in range(len(live.anatomy.layers)) for p in range(16)]
    some = sample(every, step)
    times = len(every) / len(some)
    streams = peers.streams(setting, [t.id for t in asked.corrupt])

    def one_by_one() -> None:
        for layer, position in some:
            with peers.stream_put(setting, layer, position, streams[layer]):
                asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])

    ours = fresh(live, lambda: patching(live, asked, directions=["noise"]))
    contenders = {"ours": Contender(ours), "HF one by one": Contender(one_by_one, times), "plain": setting.plain(asked)}
    contenders |= peers.patches(setting, asked, some, times)
    targets = [
        Target(name, "ours", f"layer × position: faster than {name}", *bars.get(name, (None, None)))
        for name in contenders
        if name not in ("ours", "plain")
    ]
    targets.append(Target("ours", "plain", "layer × position / plain forward", faster=False))
    exact = lambda: patch_error(setting, asked, some)  # noqa: E731
    title = f"residual patching layer × position, {setting.name}, 16 tokens"
    return Case("patching", title, contenders, tuple(targets), rounds, ours, None, exact)


def patterns(setting: Setting, rounds: int) -> Case:
    """Every attention pattern of one forward."""
    live, asked = setting.live, question(setting.live, 64)
    sites = [Site("pattern", layer.index) for layer in live.anatomy.layers if layer.attention is not None]
    work = lambda: live.runs([asked.ids], read=sites, logits=False)  # noqa: E731
    contenders = {"ours": Contender(work), "plain": setting.plain(asked)}
    targets = (Target("ours", "plain", "all patterns of a forward / plain forward", 1.05, 0.85, faster=False),)
    return Case("patterns", f"all patterns, {setting.name}, 64 tokens", contenders, targets, rounds, work)


# ---- how much work there is, and how exact it is ------------------------------------------------------------------------


def sweep_flops(setting: Setting, length: int) -> float:
    """Multiplications and additions of a growing batch of all heads: each row from the attention of its block on.

    Projections, the last block at the read position only past its attention, and one row of logits per head.
    """
    live = setting.live
    n, d = len(live.anatomy.layers), live.anatomy.d_model
    total = 0.0
    for layer in live.anatomy.layers:
        attention, mlp = layer.attention, layer.mlp
        assert attention is not None
        assert mlp is not None
        wide = attention.n_heads * attention.d_head
        before = d * (wide + 2 * attention.n_kv_heads * attention.d_head)
        after = wide * d + sum(p.numel() for p in mlp.module.parameters() if p.dim() == 2)
        rows = attention.n_heads * length
        older = attention.n_heads * layer.index * length
        if layer.index == n - 1:
            total += 2 * (older * before + (older + rows) / length * after)
        else:
            total += 2 * (older * (before + after) + rows * after)
    return total + 2 * len(heads_of(live)) * d * live.anatomy.vocab


def sweep_error(setting: Setting, asked: Asked, some: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Largest error of ours, and of the plain float32 loop, against the same loop in float64."""
    table = head_effects(setting.live, asked, mode="zero", mlps=False)
    base = asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])[0]
    plain, wide = dict[tuple[int, int], float](), dict[tuple[int, int], float]()
    for at in some:
        with head_off(setting, *at):
            plain[at] = float(base - asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])[0])
    setting.bare.double()
    base = asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])[0]
    for at in some:
        with head_off(setting, *at):
            wide[at] = float(base - asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])[0])
    setting.bare.float()
    return max(abs(float(table.effects[a]) - wide[a]) for a in some), max(abs(plain[a] - wide[a]) for a in some)


def patch_error(setting: Setting, asked: Asked, some: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The same for patched metrics."""
    assert asked.corrupt is not None
    found = patching(setting.live, asked, directions=["noise"]).noise_metrics
    each: list[dict[tuple[int, int], float]] = []
    for cast in (torch.float32, torch.float64):
        setting.bare.to(cast)
        streams = peers.streams(setting, [t.id for t in asked.corrupt])
        metrics = dict[tuple[int, int], float]()
        for layer, position in some:
            with peers.stream_put(setting, layer, position, streams[layer]):
                metrics[layer, position] = float(asked.metric.of(forward(setting.bare, asked.ids)[0, -1][None])[0])
        each.append(metrics)
    setting.bare.float()
    plain, wide = each
    return max(abs(float(found[a]) - wide[a]) for a in some), max(abs(plain[a] - wide[a]) for a in some)

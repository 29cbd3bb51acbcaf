"""What must hold for the engine on any model, checked against plain hooks and forwards of the test's own.

Each check takes a `Bench` and gives the largest relative error that it saw, or None where the model lacks what it is
about. What the engine switched off, with a reason, is not asked for; what is on must be right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import interp_widgets as iw
from interp_widgets.methods.direct import direct_effects
from interp_widgets.methods.head_effects import head_effects
from interp_widgets.model.applied import applied
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.parts import Layer, Write
from interp_widgets.model.probe import plain_forward, probe_ids
from interp_widgets.model.question import Asked, Metric
from interp_widgets.model.reads import native_pattern

EXACT, REPLAYED, ROUNDED = 0.0, 2e-6, 1e-5


class Bench:
    """One open model, two prompts of one length, a shorter one, and its own logits from before it was opened."""

    def __init__(self, module: Any) -> None:
        self.module = module
        probe = probe_ids(module)[0].tolist()
        self.ids, self.other, self.short = probe[:7], probe[4:11], probe[2:6]
        self.before = self.own()
        self.eager = self._eager_copy()
        self.live: LiveModel

    def own(self, ids: Sequence[int] | None = None) -> Tensor:
        """The module's own logits `[pos, vocab]`, by a call that is not ours."""
        with torch.no_grad():
            return plain_forward(self.module, torch.tensor([list(ids or self.ids)])).logits[0]

    def _eager_copy(self) -> Any:
        twin = copy.deepcopy(self.module)
        try:
            twin.set_attn_implementation("eager")
        except (ValueError, AttributeError):
            return None
        return twin

    @property
    def layers(self) -> list[Layer]:
        """The first and the last layer that has heads; without any, the first and the last."""
        every = list(self.live.anatomy.layers)
        some = [layer for layer in every if layer.attention is not None] or every
        return [some[0], some[-1]] if len(some) > 1 else some[:1]

    @property
    def asked(self) -> Asked:
        """The answer at the last position."""
        tokens = self.live.tokens.encode(self.ids)
        return Asked("", tokens, Metric((20,), (30,)), (), (), len(tokens) - 1)

    def has(self, *features: str) -> bool:
        """Whether all of these are on."""
        return not any(feature in self.live.report.off for feature in features)

    def run(self, *interventions: Intervention, read: Sequence[str] = ()) -> Any:
        """Our run of the first prompt."""
        return self.live.run(self.ids, interventions, read)


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return float((a.double() - b.double()).abs().max()) / max(float(b.double().abs().max()), 1e-30)


@contextmanager
def before(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """A plain hook on what a module is called with."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: change(kwargs[name])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after(write: Write, change: Callable[[Tensor], Tensor | None]) -> Generator[None]:
    """A plain hook on what a module gives; None looks only."""

    def hook(_module: nn.Module, _args: Any, out: Any) -> Any:
        new = change(out if write.index is None else out[write.index])
        if new is None or isinstance(out, Tensor):
            return new
        return (*out[: write.index], new, *out[(write.index or 0) + 1 :])

    handle = write.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# ---- nothing on -------------------------------------------------------------------------------------------------------


def nothing_on(b: Bench) -> float:
    """With nothing on: the module's own logits, bit for bit; and the module, called by its owner, as before."""
    same = torch.equal(b.run().logits, b.before) and torch.equal(b.own(), b.before)
    return 0.0 if same else max(off(b.run().logits, b.before), off(b.own(), b.before), 1e-30)


def strength_zero(b: Bench) -> float:
    """A steering vector at strength 0 is idle and changes no bit."""
    run = b.run(iw.Steer("L0", torch.ones(b.live.anatomy.d_model), 0.0, positions="all"))
    assert run.receipts[0].state == "idle", run.receipts[0]
    return off(run.logits, b.before)


def read_out(b: Bench) -> float:
    """The answer that is shown is the module's own row."""
    return off(b.live.answer(b.asked).logits, b.before[-1])


# ---- edits ------------------------------------------------------------------------------------------------------------


def ablated_head(b: Bench) -> float | None:
    """A head set to zero is a plain pre-hook that zeroes its slice."""
    worst = None
    for layer in b.layers:
        if layer.attention is None:
            continue
        a, h = layer.attention, layer.attention.n_heads - 1

        def zero(x: Tensor, at: slice = slice(h * a.d_head, (h + 1) * a.d_head)) -> Tensor:
            x = x.clone()
            x[..., at] = 0.0
            return x

        run = b.run(iw.Ablate(f"L{layer.index}H{h}", mode="zero"))
        with before(a.output, zero):
            expected = b.own()
        assert run.receipts[0].state == "acted", run.receipts[0]
        assert not torch.equal(expected, b.before), "the head does nothing"
        worst = max(worst or 0.0, off(run.logits, expected))
    return worst


def ablated_mlp(b: Bench) -> float | None:
    """An MLP set to zero is a plain hook that zeroes what it gives; a neuron, one that zeroes its column."""
    worst = None
    for layer in (b.live.anatomy.layers[0], b.live.anatomy.layers[-1]):
        if layer.mlp is None or layer.mlp.write is None:
            continue
        run = b.run(iw.Ablate(f"L{layer.index}.mlp", mode="zero"))
        with after(layer.mlp.write, torch.zeros_like):
            worst = max(worst or 0.0, off(run.logits, b.own()))
        assert run.receipts[0].state == "acted", run.receipts[0]
        if layer.mlp.neurons is not None:
            column = layer.mlp.d_neurons // 2
            keep = (torch.arange(layer.mlp.d_neurons) != column).float()
            run = b.run(iw.Ablate(f"L{layer.index}.mlp.{column}", mode="zero"))
            with before(layer.mlp.neurons, lambda x, keep=keep: x * keep):
                worst = max(worst, off(run.logits, b.own()))
    return worst


def patched_everywhere(b: Bench) -> float | None:
    """The stream of another run put in place at every position gives that run."""
    if not b.has("stream", "stream alone"):
        return None
    source, worst = b.live.run(b.other, read=[f"L{layer.index}" for layer in b.live.anatomy.layers]), 0.0
    for layer in b.live.anatomy.layers:
        worst = max(worst, off(b.run(iw.Patch(f"L{layer.index}", source)).logits, source.logits))
    return worst


def applied_is_a_run(b: Bench) -> float:
    """The owner's own call inside `applied()` gives what our run gives, for an edit before and after every block."""
    d, worst = b.live.anatomy.d_model, 0.0
    for layer in b.live.anatomy.layers:
        for site in (f"L{layer.index}.pre", f"L{layer.index}"):
            edit = iw.Steer(site, torch.linspace(-1, 1, d), 1.0, positions="all")
            with applied(b.live, [edit], ()) as receipts:
                own = b.own()
            assert receipts[0].state == "acted", receipts[0]
            worst = max(worst, off(own, b.run(edit).logits))
    return worst


def recorded_states(b: Bench) -> float | None:
    """Inside `applied()` the library's own `output_hidden_states` holds the stream that the next block reads."""
    with _recorders(b.module):
        return _recorded_states(b)


def _recorded_states(b: Bench) -> float | None:
    with torch.no_grad():
        plain = hidden_states(b)
    d, worst = b.live.anatomy.d_model, None
    for layer in b.live.anatomy.layers[:-1]:
        site, at = f"L{layer.index}", layer.index + 1
        before = b.run(read=[site])[site]
        if plain is None or len(plain) <= at or not _is(plain[at], before):
            continue  # what this model records there is not the stream of an unedited run either
        edit = iw.Steer(site, torch.linspace(-1, 1, d), 1.0, positions="all")
        with torch.no_grad(), applied(b.live, [edit], ()):
            states = hidden_states(b)
        assert states is not None
        worst = max(worst or 0.0, off(states[at][0], b.run(edit, read=[site])[site]))
    return worst


@contextmanager
def _recorders(module: nn.Module) -> Generator[None]:
    """The library's recorders stay on a model for good; what this check made it hook is taken off again."""
    tables = [m._forward_hooks for m in module.modules()]
    there = [set(table) for table in tables]
    flags = {m: set(vars(m)) for m in module.modules()}
    try:
        yield
    finally:
        for table, before in zip(tables, there, strict=True):
            for key in set(table) - before:
                del table[key]
        for m, before in flags.items():
            for name in set(vars(m)) - before:
                delattr(m, name)


def hidden_states(b: Bench) -> Sequence[Tensor] | None:
    """What the library records of its own call, if it does."""
    try:
        return b.module(torch.tensor([b.ids]), output_hidden_states=True, use_cache=False).hidden_states
    except (TypeError, AttributeError, ValueError):
        return None


def _is(recorded: Any, stream: Tensor) -> bool:
    return isinstance(recorded, Tensor) and recorded[0].shape == stream.shape and off(recorded[0], stream) < REPLAYED


# ---- sums -------------------------------------------------------------------------------------------------------------


def heads_sum(b: Bench) -> float | None:
    """The heads' own results and the bias are the projection's output."""
    worst = None
    for layer in b.layers:
        a = layer.attention
        weight = getattr(a.output, "weight", None) if a is not None else None
        if a is None or not isinstance(weight, Tensor):
            continue
        seen: list[Tensor] = []
        with after(Write(a.output, None, 1.0), lambda x, seen=seen: seen.append(x.clone())):
            z = b.run(read=[f"L{layer.index}.heads"])[f"L{layer.index}.heads"]
        rows = (weight if hasattr(a.output, "nf") else weight.T).detach().double().unflatten(0, (a.n_heads, -1))
        total = torch.einsum("phd,hdm->pm", z.double(), rows)
        bias = getattr(a.output, "bias", None)
        total = total if bias is None else total + bias.detach().double()
        worst = max(worst or 0.0, off(total, seen[0].reshape(total.shape)))
    return worst


def writes_sum(b: Bench) -> float | None:
    """What enters a block and what its parts add is what the next block reads."""
    if not b.has("writes", "stream"):
        return None
    worst = None
    for layer in b.live.anatomy.layers:
        names = [
            f"L{layer.index}.{name}"
            for name, part in (("attn", layer.attention), ("mlp", layer.mlp))
            if part is not None and part.write is not None
        ]
        if layer.post_norm or (layer.attention is not None and layer.attention.write is None):
            continue
        seen: list[Tensor] = []
        with _all(after(w, lambda x, s=w.scale, seen=seen: seen.append(s * x.clone())) for w in layer.others):
            run = b.run(read=[f"L{layer.index}.pre", f"L{layer.index}", *names])
        total = layer.carry * run[f"L{layer.index}.pre"].double()
        for part in (*(run[name] for name in names), *(x.reshape(total.shape) for x in seen)):
            total = total + part.double()
        worst = max(worst or 0.0, off(total, run[f"L{layer.index}"]))
    return worst


@contextmanager
def _all(managers: Any) -> Generator[None]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def direct_sum(b: Bench) -> float | None:
    """Direct attributions add up to the metric; without a soft cap nothing but rounding is left."""
    if not b.has("heads", "writes", "stream", "direct"):
        return None
    parts = direct_effects(b.live, b.asked)
    size = float(b.before[-1].double().abs().max())
    named = [float(torch.from_numpy(x).nansum()) for x in (parts.heads, parts.mlps, parts.attention_bias, parts.other)]
    total = sum(named) + parts.embed + parts.bias + parts.remainder
    error = abs(total - float(b.asked.metric.of(b.before[-1:].float())[0])) / size
    return error if b.live.anatomy.softcap else max(error, abs(parts.remainder) / size)


# ---- fast paths -------------------------------------------------------------------------------------------------------


def replay_is_whole(b: Bench) -> float:
    """An edit answered from the recorded calls is the same edit in the whole model."""
    edits: list[Intervention] = []
    for layer in b.layers:
        edits.append(iw.Steer(f"L{layer.index}", torch.linspace(-1, 1, b.live.anatomy.d_model), 1.0, positions="all"))
        if layer.attention is not None:
            edits.append(iw.Ablate(f"L{layer.index}H0", mode="zero"))
    return max(off(b.live.answer(b.asked, [edit]).logits, b.run(edit).logits[-1]) for edit in edits)


def sweep_is_one_by_one(b: Bench) -> float | None:
    """The sweep of all heads and MLPs has the numbers of single ablations."""
    if not b.has("heads"):
        return None
    table, size = head_effects(b.live, b.asked, mode="zero"), float(b.before[-1].abs().max())
    worst = 0.0
    for layer in b.layers:
        assert layer.attention is not None
        for head in {0, layer.attention.n_heads - 1}:
            run = b.run(iw.Ablate(f"L{layer.index}H{head}", mode="zero"))
            alone = float(b.asked.metric.of(run.logits[-1:].float())[0])
            worst = max(worst, abs(float(table.metrics[layer.index, head]) - alone) / size)
        if layer.mlp is not None and layer.mlp.write is not None:
            run = b.run(iw.Ablate(f"L{layer.index}.mlp", mode="zero"))
            alone = float(b.asked.metric.of(run.logits[-1:].float())[0])
            worst = max(worst, abs(float(table.mlp_metrics[layer.index]) - alone) / size)
    return worst


# ---- patterns, prompts side by side, text -----------------------------------------------------------------------------


def patterns_are_eager(b: Bench) -> float | None:
    """A pattern read beside a kernel is the one that eager attention returns."""
    if not b.has("patterns read") or not b.live.patterns_wrapped or b.eager is None:
        return None
    names = {module: name for name, module in b.live.anatomy.root.named_modules()}
    seen: dict[int, Tensor | None] = {}
    for layer in b.layers:
        assert layer.attention is not None
        module = b.eager.get_submodule(names[layer.attention.module])
        module.register_forward_hook(lambda _m, _a, out, i=layer.index: seen.__setitem__(i, native_pattern(out)))
    with torch.no_grad():
        plain_forward(b.eager, torch.tensor([b.ids]))
    worst = None
    for index, expected in seen.items():
        if expected is not None:
            site = f"L{index}.pattern"
            worst = max(worst or 0.0, off(b.run(read=[site])[site], expected[0]))
    return worst


def prompts_side_by_side(b: Bench) -> float:
    """A list of prompts of several lengths gives what each gives alone."""
    together = b.live.run([b.ids, b.short, b.other])
    alone = [b.before, b.own(b.short), b.own(b.other)]
    return max(off(run.logits, own) for run, own in zip(together, alone, strict=True))


def cached_text(b: Bench) -> float | None:
    """Greedy text is the same with the model's cache and without, plain and edited."""
    edit = iw.Steer("L0", torch.linspace(-1, 1, b.live.anatomy.d_model), 0.5)
    for interventions in ([], [edit]):
        cached, plain = (
            b.live.generate(b.ids, interventions, 4, use_cache=use, temperature=0.0, ignore_eos=True)
            for use in (True, False)
        )
        texts = [[token.id for token in run] for run in (cached, plain)]
        if cached.generation.notes:
            return None
        assert texts[0] == texts[1], texts
        own, ids = [], list(b.ids)
        for _ in range(4 if not interventions else 0):
            own.append(int(b.own(ids)[-1].argmax()))
            ids.append(own[-1])
        assert interventions or texts[0] == own, (texts[0], own)
    return 0.0


Check = Callable[[Bench], float | None]

CHECKS: dict[str, tuple[Check, float]] = {
    "nothing on is the module, bit for bit": (nothing_on, EXACT),
    "strength 0 is idle": (strength_zero, EXACT),
    "the answer is the module's row": (read_out, REPLAYED),
    "an ablated head is a plain hook": (ablated_head, REPLAYED),
    "an ablated MLP or neuron is a plain hook": (ablated_mlp, REPLAYED),
    "the stream of another run gives that run": (patched_everywhere, REPLAYED),
    "the owner's call inside applied() is the run": (applied_is_a_run, REPLAYED),
    "recorded hidden states are what is read next": (recorded_states, REPLAYED),
    "heads add up to the projection": (heads_sum, ROUNDED),
    "writes add up to the stream": (writes_sum, ROUNDED),
    "direct effects add up to the answer": (direct_sum, ROUNDED),
    "replay is the whole model": (replay_is_whole, REPLAYED),
    "a sweep is one by one": (sweep_is_one_by_one, REPLAYED),
    "patterns are those of eager attention": (patterns_are_eager, ROUNDED),
    "prompts side by side are one by one": (prompts_side_by_side, ROUNDED),
    "cached text is uncached text": (cached_text, EXACT),
}

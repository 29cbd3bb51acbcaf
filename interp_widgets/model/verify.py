"""The checks on attach: a fast path or a feature is used only after it was shown right on this very model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from interp_widgets.model.errors import InterpError
from interp_widgets.model.gate import Program, Tap, activate, foreign_hooks
from interp_widgets.model.parts import Layer
from interp_widgets.model.places import place
from interp_widgets.model.probe import Recording, probe_ids, quiet
from interp_widgets.model.probe import record as watch
from interp_widgets.model.question import Asked, Metric, Token
from interp_widgets.model.reads import capture
from interp_widgets.model.replay import batch_dims, finish, record, run_layers
from interp_widgets.model.report import Check, Report
from interp_widgets.model.residual import rounding
from interp_widgets.model.run import Batch, batch_of, force_eager, forward, modes
from interp_widgets.model.sites import Site

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

_NO_ATTENTION = "no layer of this model has heads with softmax attention"
_SLACK = 64  # errors up to this many times the dtype's epsilon are rounding


def _edit_row(row: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The edit of these checks, in one row only."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        x[row] = x[row] * 0.5 + 0.01
        return x

    return edit


def verify(live: LiveModel) -> Report:
    """Run every check; a failed one switches its feature off by name, and nothing raises that the user could still use."""
    with live.lock, modes(live.device):  # also what the checks compute of what they read
        live.ready()
        return _Verifier(live).report()


class _Verifier:
    """One pass of checks over a short probe prompt."""

    def __init__(self, live: LiveModel) -> None:
        self.live = live
        ids = [int(i) for i in probe_ids(live.anatomy.root).flatten()[:8]]
        self.one = self._batch([ids])
        self.eps = rounding(live.dtype) if live.dtype.is_floating_point else 1e-6
        self.checks: list[Check] = []
        self.off: dict[str, str] = {}
        program = live.program()
        self.trace = record(program, live.anatomy)
        self.logits, self.hidden = forward(live.caller, live.anatomy, self.one, program)
        self.scale = float(self.logits.float().abs().max()) or 1.0
        self.floor = 0.0
        self._recording: Recording | None = None

    def _batch(self, prompts: list[list[int]]) -> Batch:
        return batch_of([tuple(Token(i, "x") for i in p) for p in prompts], self.live.device)

    def report(self) -> Report:
        """Make all checks."""
        for feature, reason in self.live.anatomy.gaps.items():
            self.off[feature] = reason
        for name, error in self.live.anatomy.errors.items():
            self._add(f"{name} add up (relative)", error, feature=name)
        self._try("read-out", "read-out from the last hidden state = logits (relative)", self._readout)
        self._try("edits", "an edit acts and leaves no trace", self._edits)
        self._try("batch", "the batch dimension of every recorded tensor is known", self._dims)
        self._try("replay", "replay from any block = the whole model (relative)", self._replay)
        self._try("stream alone", "a block reads the prompt from its stream alone (relative)", self._alone)
        self._try("growing batch", "a growing batch = one by one (relative)", self._growing)
        self._try("split block", "rows born inside a block = one by one (relative)", self._split)
        self._try("read position only", "the last block at the read position only = whole (relative)", self._narrow)
        self._try("packed rows", "rows packed into one sequence = one by one (relative)", self._packed)
        self._try("patterns read", "patterns: nobody looks ahead, pattern · v = z", self._patterns)
        self._try("patterns written", "an edited pattern acts on its head only", self._pattern_edit)
        self._noise()
        return Report(
            tuple(self.checks),
            self.floor,
            tuple(foreign_hooks(self.live.anatomy.root)),
            self.off,
            self.live.anatomy.notes,
        )

    def _add(self, name: str, error: float, feature: str, slack: float = _SLACK, note: str = "") -> bool:
        ok = error <= slack * self.eps
        self.checks.append(Check(name, ok, error, feature, note))
        if not ok and feature not in self.off:
            self.off[feature] = f"{name}: error {error:.1e} where rounding gives {slack * self.eps:.1e}"
        return ok

    def _try(self, feature: str, name: str, check: Callable[[str, str], None]) -> None:
        try:
            check(feature, name)
        except InterpError as error:
            self.checks.append(Check(name, False, None, feature, str(error)))
            self.off.setdefault(feature, str(error))
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
            self.checks.append(Check(name, False, None, feature, f"{type(error).__name__}: {error}"))
            self.off.setdefault(feature, f"{name}: {type(error).__name__}: {error}")

    def _relative(self, a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.float() - b.float()).abs().max()) / self.scale

    def _run(self, program: Program, batch: Batch | None = None) -> torch.Tensor:
        return forward(self.live.caller, self.live.anatomy, batch or self.one, program)[0]

    # ---- the checks -----------------------------------------------------------------------------------------------

    def _readout(self, feature: str, name: str) -> None:
        with modes(self.live.device):
            mine = self.live.readout.logits(self.hidden[0])
        self._add(name, self._relative(mine[:, : self.logits.shape[-1]], self.logits[0]), feature)

    def _edit(self, site: Site, rows: int = 1) -> Program:
        program = self.live.program()
        place(program, self.live.anatomy, site, lambda: rows, lambda x: x * 0.5 + 0.01)
        return program

    def _sites(self) -> list[Site]:
        sites = [Site("embed")]
        for layer in self.live.anatomy.layers:
            sites.append(Site("resid_post", layer.index))
            if layer.attention is not None:
                sites.append(Site("z", layer.index))
            if layer.mlp is not None and layer.mlp.write is not None:
                sites.append(Site("mlp", layer.index))
        return sites

    def _edits(self, feature: str, name: str) -> None:
        sites = self._sites()
        picked = [sites[0], *sites[1:4], sites[-1]]
        for site in dict.fromkeys(picked):
            if torch.equal(self._run(self._edit(site)), self.logits):
                self.off.setdefault(feature, f"an edit at {site.name} changed nothing")
                self.checks.append(Check(name, False, None, feature, f"{site.name} is a no-op"))
                return
        again = self._run(self.live.program())
        self._add(
            name, 0.0 if torch.equal(again, self.logits) else self._relative(again, self.logits), feature, slack=0.0
        )

    def _dims(self, feature: str, name: str) -> None:
        ids = self.one.ids[0].tolist()
        program = self.live.program()
        two = record(program, self.live.anatomy)
        self._run(program, self._batch([ids, ids[:-2]]))
        self.live.dims.update(batch_dims(self.trace, two))
        self.checks.append(Check(name, True, None, feature, f"{len(self.live.dims)} tensors grow with the batch"))

    def _replay(self, feature: str, name: str) -> None:
        live, worst = self.live, 0.0
        n = len(live.anatomy.layers)
        sites = [Site("resid_pre", start) for start in self._starts()]  # all that a block hands on moves
        for site in (*sites, Site("resid_post", n - 1)):
            start = site.layer or 0
            whole = self._run(self._edit(site))
            with modes(live.device), force_eager(live.anatomy.root), activate(self._edit(site)):
                stream = run_layers(live.anatomy, self.trace, self.trace.calls[start].hidden, start, n, live.dims)
                hidden = finish(live.anatomy, stream)
            with modes(live.device):
                worst = max(worst, self._relative(live.readout.logits(hidden[0]), whole[0]))
        self._add(name, worst, feature)

    def _alone(self, feature: str, name: str) -> None:
        """Another prompt's stream put in place after the first block must give that prompt's answer."""
        if len(self.live.anatomy.layers) < 2:
            return
        other = self._batch([[int(i) for i in probe_ids(self.live.anatomy.root).flatten()[3:11]]])
        site = Site("resid_post", 0)
        caught: dict[Site, torch.Tensor] = {}
        program = self.live.program()
        capture(self.live, program, site, 1, caught)
        expected = self._run(program, other)
        program = self.live.program()
        place(program, self.live.anatomy, site, lambda: 1, lambda _: caught[site])
        off = self._relative(self._run(program), expected)
        if not self._add(name, off, feature):
            self.off[feature] = (
                "later blocks also get the prompt by another way (per-layer inputs, the embedding, a state handed on), so the "
                f"stream of another prompt does not give its answer: off by {off:.1e}"
            )

    def _growing(self, feature: str, name: str) -> None:
        live = self.live
        site = next((s for s in self._sites() if s.part == "z"), Site("resid_post", 0))
        whole = self._run(self._edit(site))
        start = site.layer or 0
        program = live.program()
        place(program, live.anatomy, site, lambda: 3, lambda x: torch.cat([x[:1], x[1:2] * 0.5 + 0.01, x[2:]]))
        with modes(live.device), force_eager(live.anatomy.root), activate(program):
            stream = self.trace.calls[start].hidden.expand(3, -1, -1)
            hidden = finish(
                live.anatomy, run_layers(live.anatomy, self.trace, stream, start, len(live.anatomy.layers), live.dims)
            )
        with modes(live.device):
            rows = torch.stack([live.readout.logits(h) for h in hidden])
        worst = max(
            self._relative(rows[1], whole[0]),
            self._relative(rows[0], self.logits[0]),
            self._relative(rows[2], self.logits[0]),
        )
        self._add(name, worst, feature)
        self.floor = max(self.floor, self._spread(rows[0], self.logits[0]))

    def _split(self, feature: str, name: str) -> None:
        starts = self._starts()
        self._add(name, max(self._births(start, narrow=False) for start in starts), feature)

    def _narrow(self, feature: str, name: str) -> None:
        starts = self._starts()[-2:]
        self._add(name, max(self._births(start, narrow=True) for start in starts), feature)

    def _starts(self) -> list[int]:
        """Blocks to check: all of a small model, else some of each kind."""
        n = len(self.live.anatomy.layers)
        return list(range(n)) if n <= 6 else sorted({0, 1, n // 3, n // 2, n - 2, n - 1})

    def _births(self, start: int, narrow: bool) -> float:
        """Rows born in block `start` (plain, heads edited, perhaps the MLP edited) against whole runs."""
        from interp_widgets.model.sweep import Base, Birth, Walk

        live = self.live
        tokens = tuple(Token(int(i), "x") for i in self.one.ids[0])
        position = len(tokens) - 2
        asked = Asked("", tokens, Metric((0,)), (), (), position)
        sites = [s for s in self._sites() if s.layer == start and s.part in ("z", "mlp")]
        plain = self.logits[0, position]
        base = Base(asked, self.trace, (), plain[None].float(), live.fingerprint(), self.one)
        whole = {site: self._run(self._edit(site))[0, position] for site in sites}
        worst = 0.0
        for together in {tuple(sites), tuple(sites[:1])} if sites and sites[0].part == "z" else ():
            births = [Birth(start, 3, tuple((site, _edit_row(1 + i)) for i, site in enumerate(together)))]
            with modes(live.device), force_eager(live.anatomy.root):
                rows = live.readout.logits(Walk(live, base, None, split=True, narrow=narrow).run(births))
            expected = [plain, *(whole[site] for site in together), plain][:3]
            worst = max(worst, *(self._relative(a, b) for a, b in zip(rows, expected, strict=True)))
        return worst

    def _packed(self, feature: str, name: str) -> None:
        """Two rows edited at one position each, born in one block and in the next."""
        from interp_widgets.model.packed import Suffix, length_dims, walk
        from interp_widgets.model.rows import Base

        live, n = self.live, len(self.live.anatomy.layers)
        program = live.program()
        short = record(program, live.anatomy)
        self._run(program, self._batch([self.one.ids[0, :-1].tolist()]))
        live.spans.update(length_dims(self.trace, short))
        tokens = tuple(Token(int(i), "x") for i in self.one.ids[0])
        position, worst = len(tokens) - 2, 0.0
        asked = Asked("", tokens, Metric((0,)), (), (), position)
        base = Base(asked, self.trace, (), self.logits[:1, position].float(), live.fingerprint(), self.one)
        for start in sorted({0, n - 1}):  # a row born in the first block passes them all
            cells = [(start, 2), (start, position), (min(start + 1, n - 1), 4)]
            suffixes = [Suffix(layer, (p,), self._pushed(layer, p)[p][None]) for layer, p in cells]
            with modes(live.device), force_eager(live.anatomy.root), activate(live.program()):
                rows = live.readout.logits(walk(live, base, suffixes))
            for row, (layer, p) in zip(rows, cells, strict=True):
                program = live.program()
                stream = self._pushed(layer, p)[None]
                place(program, live.anatomy, Site("resid_pre", layer), lambda: 1, lambda _x, new=stream: new)
                worst = max(worst, self._relative(row, self._run(program)[0, position]))
        self._add(name, worst, feature)

    def _pushed(self, layer: int, position: int) -> torch.Tensor:
        """A block's input with one position changed, `[pos, d_model]`."""
        stream = self.trace.calls[layer].hidden[0].clone()
        stream[position] = stream[position] * 0.5 + 0.01
        return stream

    def _spread(self, a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.float() - b.float()).abs().max())

    def _patterns(self, feature: str, name: str) -> None:
        live, worst = self.live, 0.0
        layers = [layer for layer in live.anatomy.layers if layer.attention is not None]
        if not layers:
            self.off.setdefault(feature, _NO_ATTENTION)
            return
        for layer in (layers[0], layers[-1]):
            site = Site("pattern", layer.index)
            caught: dict[Site, torch.Tensor] = {}
            program = live.program()
            capture(live, program, site, 1, caught)
            self._run(program)
            if site not in caught:
                self.off.setdefault(
                    feature, f"attention of {type(live.anatomy.root).__name__} does not return or hand on its pattern"
                )
                self.checks.append(Check(name, False, None, feature, "no pattern came out"))
                return
            pattern = caught[site]
            above = torch.triu(torch.ones(pattern.shape[-2:], dtype=torch.bool, device=pattern.device), 1)
            worst = max(worst, float(pattern.masked_select(above).abs().max()), float((-pattern).clamp_min(0.0).max()))
            worst = max(worst, self._sums_check(layer, pattern))
        self._add(name, worst, feature)

    def _sums_check(self, layer: Layer, pattern: torch.Tensor) -> float:
        """Whether pattern · v is what the heads give; where v is not seen, whether rows sum to 1.

        A row may sum to less than 1 (an attention sink takes the rest), but then the values must say so.
        """
        assert layer.attention is not None
        if self.live.patterns_wrapped and not layer.attention.gated:
            return self._value_check(layer.index)
        seen = None if self.live.patterns_wrapped else self._native_check(layer)
        return float((pattern.sum(-1) - 1).abs().max()) if seen is None else seen

    def _native_check(self, layer: Layer) -> float | None:
        """The pattern that the module returns, times the values of its own product, against that product."""
        assert layer.attention is not None
        if self._recording is None:
            with quiet(self.live.anatomy.root):
                self._recording = watch(self.live.anatomy.root, probe_ids(self.live.anatomy.root))
        calls = self._recording.calls
        own = [s for s in self._recording.softmaxes if calls[s.call].module is layer.attention.module]
        found = next((s for s in reversed(own) if s.values is not None and s.heads is not None), None)
        if found is None:
            return None
        assert found.values is not None and found.heads is not None
        site, program, caught = Site("pattern", layer.index), self.live.program(), dict[Site, torch.Tensor]()
        capture(self.live, program, site, 2, caught)
        self._run(program, self._batch(self._recording.ids.tolist()))
        pattern, values = caught[site].cpu().float(), found.values.float()
        if pattern.shape[1] != values.shape[1]:
            return None
        mine, heads = (pattern @ values).transpose(1, 2), found.heads.float()
        return float((mine - heads).abs().max() / heads.abs().max().clamp_min(1e-12))

    def _value_check(self, layer: int) -> float:
        caught: dict[Site, torch.Tensor] = {}
        program = self.live.program()
        sites = [Site("pattern", layer), Site("v", layer), Site("z", layer)]
        for site in sites:
            capture(self.live, program, site, 1, caught)
        self._run(program)
        pattern, v, z = (caught[s][0].float() for s in sites)
        v = v.repeat_interleave(z.shape[1] // v.shape[1], dim=1)
        mine = torch.einsum("hds,shv->dhv", pattern, v)
        return float((mine - z).abs().max() / z.abs().max().clamp_min(1e-12))

    def _pattern_edit(self, feature: str, name: str) -> None:
        live = self.live
        if not live.patterns_wrapped:
            self._unwritten(feature, name)
            return
        layer = next((layer for layer in live.anatomy.layers if layer.attention is not None), None)
        if layer is None or layer.attention is None:
            self.off.setdefault(feature, _NO_ATTENTION)
            return
        caught: dict[str, torch.Tensor] = {}
        program = live.program()
        place(program, live.anatomy, Site("z", layer.index), lambda: 1, lambda x: caught.update(z=x.clone()))
        self._run(program)
        plain = caught["z"]
        program = live.program()

        def cut(_q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
            caught["pattern"] = new = pattern.clone()
            new[:, 0] = 0.0
            return new

        program.attention[layer.attention.module] = [Tap(cut)]
        place(program, live.anatomy, Site("z", layer.index), lambda: 1, lambda x: caught.update(z=x.clone()))
        self._run(program)
        if "pattern" not in caught:
            self._unwritten(feature, name)
            return
        alone = layer.attention.n_heads == 1 or layer.attention.gated  # a norm over all heads moves the others too
        others = 0.0 if alone else float((caught["z"][:, :, 1:] - plain[:, :, 1:]).abs().max())
        acted = not torch.equal(caught["z"][:, :, 0], plain[:, :, 0])
        note = "a gate or norm lies behind it: that it acts" if layer.attention.gated else ""
        self._add(name, others + (0.0 if acted else 1.0), feature, slack=0.0, note=note)

    def _unwritten(self, feature: str, name: str) -> None:
        way = self.live.attention_implementation
        why = f"attention of this model ({way}) does not go through transformers' registry, so no pattern can be put in place"
        self.off.setdefault(feature, why)
        self.checks.append(Check(name, False, None, feature, why))

    def _noise(self) -> None:
        """The same run rounded otherwise: half an epsilon of relative noise on the embeddings, from a fixed generator."""
        generator = torch.Generator("cpu").manual_seed(0)

        def jiggle(x: torch.Tensor) -> torch.Tensor:
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float32, device="cpu") - 0.5
            return (x.float() * (1 + self.eps * noise.to(x.device))).to(x.dtype)

        program = self.live.program()
        place(program, self.live.anatomy, Site("embed"), lambda: 1, jiggle)
        self.floor = max(self.floor, self._spread(self._run(program), self.logits))

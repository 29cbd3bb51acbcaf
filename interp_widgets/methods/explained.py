"""What an attribution explains: a number read from a run, as a function of the token embeddings.

The model's own forward is called with the model's own `input_ids`; what its embedding module gives is replaced on the
way by embeddings that we choose (so positions, masks and a family's scaling stay the model's own). Gradients are taken
with `torch.autograd.grad` with respect to those embeddings alone: no parameter's `requires_grad` or `.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from interp_widgets.methods import read_alone
from interp_widgets.methods.no_gradient import refuse_gradients, watch_gradients
from interp_widgets.model import last_block
from interp_widgets.model.compile import Compiled, compile_steps, place_step
from interp_widgets.model.errors import CancelledError, FeatureOffError, InterventionError, PromptError
from interp_widgets.model.gate import Program, activate
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.places import on_input, place
from interp_widgets.model.question import Asked, Metric, Question, Token
from interp_widgets.model.reading import acts
from interp_widgets.model.run import Batch, batch_of, force_eager, modes
from interp_widgets.model.sites import Site
from interp_widgets.model.steps import Frame

Cancelled = Callable[[], bool]
Progress = Callable[[float], None]
Embed = Callable[[torch.Tensor], torch.Tensor]
Rules = Callable[[LiveModel, Program, int], AbstractContextManager[None]]


@dataclass(frozen=True)
class Explained:
    """A number read from a run, as a function of the embeddings of its tokens.

    Attributes:
        live: the model.
        tokens: the whole sequence that is run.
        positions: where logits are read.
        score: the number of every row, `[row, position read, vocab]` -> `[row]`.
        interventions: what is on: the *edited* model is explained.
        n_prompt: how many of the tokens are the prompt; the rest counts as generated.
        each: where row r alone reads, if every row reads a position of its own (then `score` gets `[row, 1, vocab]`).
        few: the only tokens whose logits matter, and the same number from these alone, `[row, position read, token]`.
    """

    live: LiveModel
    tokens: tuple[Token, ...]
    positions: tuple[int, ...]
    score: Callable[[torch.Tensor], torch.Tensor]
    interventions: tuple[Intervention, ...] = ()
    n_prompt: int | None = None
    each: tuple[int, ...] | None = None
    few: tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]] | None = None

    def compiled(self, rows: int, cancelled: Cancelled | None = None) -> tuple[Compiled, Batch]:
        """The interventions' steps, ready for a batch of `rows` times the tokens, and that batch."""
        n = self.n_prompt or len(self.tokens)
        batch = batch_of([self.tokens] * rows, self.live.device, [n] * rows)
        steps = compile_steps(self.live, self.interventions, self.tokens[:n])
        compiled = Compiled(self.live.program(cancelled), steps)
        compiled.enter(Frame(batch.rows, batch.ids.shape[1]))
        return compiled, batch

    @property
    def edited(self) -> bool:
        """Whether an intervention changes what is explained."""
        with self.live.lock:
            return any(acts(step) for step in self.compiled(1)[0].steps)


def explained(live: LiveModel, question: Asked | Question, interventions: Sequence[Intervention] = ()) -> Explained:
    """The question's metric at its read position.

    Raises:
        PromptError: when target and foil are the same tokens, so that every score would be zero.
    """
    asked = question.first if isinstance(question, Question) else question
    metric = asked.metric
    if metric.fn is None and metric.foil and set(metric.target) == set(metric.foil):
        raise PromptError(
            f"Target and foil are both {_names(asked.target)}, so their difference is 0 whatever the prompt; choose "
            "another foil."
        )
    return Explained(live, asked.tokens, (asked.position,), _score(metric), tuple(interventions), few=_few(metric))


def _names(tokens: Sequence[Token]) -> str:
    return ", ".join(repr(token.text) for token in tokens)


def _few(metric: Metric) -> tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]] | None:
    """The tokens that `metric` reads and the metric of their logits; None where it reads them all."""
    if metric.fn is not None or not metric.foil:
        return None
    ids, n = (*metric.target, *metric.foil), len(metric.target)
    return ids, _score(Metric(tuple(range(n)), tuple(range(n, len(ids)))))


def _score(metric: Metric) -> Callable[[torch.Tensor], torch.Tensor]:
    """`metric` on the only position read; the user's own function keeps its graph where it returns a tensor."""
    fn = metric.fn
    if fn is None:
        return lambda logits: metric.of(logits[:, 0])

    def own(logits: torch.Tensor) -> torch.Tensor:
        rows = logits[:, 0]
        values: list[Any] = [fn(row) for row in rows.detach()]
        if not rows.requires_grad or not all(isinstance(v, torch.Tensor) and v.numel() == 1 for v in values):
            return torch.tensor([metric.number(v) for v in values], dtype=torch.float32, device=logits.device)
        tensors = cast("list[torch.Tensor]", [fn(row) for row in rows])
        return torch.stack([v.reshape(()).float() for v in tensors])

    return own


def embeddings(live: LiveModel, tokens: Sequence[Token]) -> torch.Tensor:
    """What the model's embedding module gives for `tokens`, `[pos, d]`, before the user's own hooks on it."""
    caught: list[torch.Tensor] = []
    with live.lock:
        live.ready()
        program = live.program()
        place(program, live.anatomy, Site("embed"), lambda: 1, lambda x: caught.append(x.detach()))
        with modes(live.device), activate(program):
            live.anatomy.embed(torch.tensor([[token.id for token in tokens]], device=live.device))
    return caught[0][0]


def numbers(what: Explained, embed: Embed, rows: int, cancelled: Cancelled | None = None) -> torch.Tensor:
    """The number `[row]` (float64, on the CPU) of `rows` runs on embeddings that we choose.

    Args:
        what: what is explained.
        embed: from the model's own embeddings `[pos, d]` to those that are run, `[row, pos, d]`.
        rows: how many.
        cancelled: asked before every block.
    """
    value, _ = _run(what, embed, rows, False, cancelled)
    return value


class _Entered(Exception):  # noqa: N818  (no error: it ends a run that has shown what it was for)
    """The first block is about to be called."""


def streams_in(what: Explained, embed: Embed, rows: int) -> torch.Tensor:
    """What the first block is given in runs on embeddings that we choose, `[row, pos, d_model]`; no block is run."""
    live = what.live
    seen: list[torch.Tensor] = []

    def enough(x: torch.Tensor) -> None:
        seen.append(x.clone())
        raise _Entered

    with live.lock, modes(live.device):
        live.ready()
        compiled, batch = what.compiled(rows)
        place(compiled.program, live.anatomy, Site("embed"), lambda: rows, _feeder(embed, [], False))
        on_input(compiled.program, live.anatomy.layers[0].module, lambda: rows, enough)
        with force_eager(live.anatomy.root), activate(compiled.program), suppress(_Entered):
            live.caller(batch, list(what.positions))
    return seen[0]


def logits_of_rows(what: Explained, embed: Embed, rows: int, cancelled: Cancelled | None = None) -> torch.Tensor:
    """Logits `[row, position read, vocab]` of `rows` runs on embeddings that we choose, in single precision."""
    return _run(replace(what, score=lambda logits: logits, few=None), embed, rows, False, cancelled)[0].float()


def gradients(
    what: Explained, embed: Embed, rows: int, cancelled: Cancelled | None = None, *, rules: Rules | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, with the embeddings that were run and each row's gradient with respect to them.

    `rules` may change what the backward does, never what the forward gives.

    Returns:
        numbers `[row]`, embeddings `[row, pos, d]`, gradients `[row, pos, d]`; float64, on the CPU.

    Raises:
        FeatureOffError: where no gradient reaches the embeddings.
    """
    value, pair = _run(what, embed, rows, True, cancelled, rules)
    assert pair is not None
    return value, *pair


def _run(
    what: Explained,
    embed: Embed,
    rows: int,
    grad: bool,
    cancelled: Cancelled | None,
    rules: Rules | None = None,
    alone: bool | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    live = what.live

    def once(alone: bool) -> tuple[torch.Tensor, torch.Tensor]:
        number, pair = _run(what, lambda own: own[None].clone(), 1, True, cancelled, alone=alone)
        assert pair is not None
        return number, pair[1]

    with live.lock, modes(live.device):  # also the batch: a tensor made in the caller's inference mode has no gradient
        live.ready()
        if grad:
            refuse_gradients(live)
        if alone is None:
            alone = grad and rules is None and rows >= read_alone.MANY and read_alone.reads_alone(what, once)
        compiled, batch = what.compiled(rows, cancelled)
        run: list[torch.Tensor] = []
        place(compiled.program, live.anatomy, Site("embed"), lambda: rows, _feeder(embed, run, grad))
        ruled = nullcontext() if rules is None else rules(live, compiled.program, rows)
        with ruled, modes(live.device, grad=grad), force_eager(live.anatomy.root):
            for (
                step
            ) in compiled.steps:  # behind the rules, which are about what the model gives, not what an edit makes of it
                place_step(live, compiled.program, step, lambda: rows)
            if grad:
                watch_gradients(what, compiled.program, rows)
            value = _read_alone(what, compiled, batch) if alone else _read_whole(what, compiled, batch)
            slope = _gradient(value, run[0]) if grad else None
    _check(value, slope)
    if slope is None:
        return value.double().cpu(), None
    return value.detach().double().cpu(), (run[0].detach().double().cpu(), slope.double().cpu())


def _read_whole(what: Explained, compiled: Compiled, batch: Batch) -> torch.Tensor:
    with activate(compiled.program):
        return _number(what, read_hidden(what, compiled, batch))


def _read_alone(what: Explained, compiled: Compiled, batch: Batch) -> torch.Tensor:
    def watched(second: Program) -> None:
        watch_gradients(what, second, len(batch.rows))

    return _number(what, last_block.read_alone(what.live, compiled.program, batch, what.positions[0], watched)[:, None])


def _number(what: Explained, hidden: torch.Tensor) -> torch.Tensor:
    """The number of each row, from `hidden [row, position read, d_model]`.

    Of many rows from the few logits that it needs; one row is read as the number on screen is, bit for bit.
    """
    rows, readout = hidden.flatten(0, 1), what.live.readout
    if what.few is None or hidden.shape[0] < read_alone.MANY:
        return what.score(readout.logits(rows).unflatten(0, hidden.shape[:2]))
    ids, score = what.few
    return score(readout.some(rows, ids).unflatten(0, hidden.shape[:2]))


def _feeder(embed: Embed, run: list[torch.Tensor], grad: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def feed(own: torch.Tensor) -> torch.Tensor:
        chosen = embed(own[0].detach()).to(own.device, own.dtype)
        run[:] = [chosen.requires_grad_() if grad else chosen]
        return chosen.clone() if grad else chosen  # some families go on in place (ctrl, git), which no leaf allows

    return feed


def read_logits(what: Explained, compiled: Compiled, batch: Batch) -> torch.Tensor:
    """Logits `[row, position read, vocab]`, in single precision, of one forward under the compiled program."""
    hidden = read_hidden(what, compiled, batch)
    return what.live.readout.logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


def read_hidden(what: Explained, compiled: Compiled, batch: Batch) -> torch.Tensor:
    """The unembedding's input `[row, position read, d_model]` of one forward under the compiled program."""
    live, rows = what.live, len(batch.rows)
    hidden: list[torch.Tensor] = []

    def capture(x: torch.Tensor) -> None:
        hidden[:] = [x]

    on_input(compiled.program, live.anatomy.unembed, lambda: rows, capture)
    live.caller(batch, list(what.positions))
    columns = hidden[0] if hidden[0].shape[1] == len(what.positions) else hidden[0][:, list(what.positions)]
    if what.each is not None:
        at = [what.positions.index(position) for position in what.each]
        columns = columns[torch.arange(rows, device=columns.device), torch.tensor(at, device=columns.device)][:, None]
    return columns


def _gradient(value: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    if not value.requires_grad:
        raise FeatureOffError(
            "The metric is a function of your own that gives a plain number, which has no gradient; let it return a "
            "tensor made from the logits, or use method='occlusion', which needs no gradient."
        )
    try:
        slope = cast("torch.Tensor | None", torch.autograd.grad(value.sum(), embeddings, allow_unused=True)[0])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:  # what torch raises where an operation has no derivative
        reason = str(error).splitlines()[0].rstrip(".")
        raise FeatureOffError(
            f"This model gives no gradient ({reason}); use method='occlusion', which needs none."
        ) from error
    if slope is None:
        raise FeatureOffError(
            "No gradient reaches the token embeddings: they are replaced, or something on the way cuts the gradient "
            "(an edit of your own, a quantised layer); use method='occlusion', which needs none."
        )
    return slope


def _check(value: torch.Tensor, slope: torch.Tensor | None) -> None:
    for tensor, what in ((value, "metric"), (slope, "gradient")):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise InterventionError(
                f"The {what} is not finite at one of the embeddings that were run; choose another baseline, or lower "
                "the strength."
            )


def give_up(cancelled: Cancelled | None) -> None:
    """Stop between two batches when a newer question came.

    Raises:
        CancelledError: when it did.
    """
    if cancelled is not None and cancelled():
        raise CancelledError

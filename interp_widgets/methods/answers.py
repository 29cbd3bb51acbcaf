"""Attribution of a whole answer: every output token to every input token, as one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from interp_widgets.methods.baselines import Baseline, BaselineSpec, find_baseline, neutral
from interp_widgets.methods.direct_tokens import direct_rows
from interp_widgets.methods.explained import Cancelled, Explained, Progress, embeddings, give_up, gradients, numbers
from interp_widgets.methods.gradients import along, nodes, small
from interp_widgets.methods.lrp import linearised, refuse_parts
from interp_widgets.methods.request import check_request
from interp_widgets.methods.row_memory import MEMORY, chunk_rows
from interp_widgets.model.errors import PromptError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question, Token

Table = npt.NDArray[np.float64]
AnswerSpec = str | Sequence[int] | Sequence[Token]


@dataclass(frozen=True, eq=False)
class AnswerAttribution:
    """What every token before it was worth for the log-probability of each token of an answer.

    Attributes:
        inputs: the prompt and the answer but its last token: everything that an output can look back at.
        outputs: the answer.
        n_prompt: the first `n_prompt` inputs are the prompt.
        scores: `[output, input]`, in log-probability (nats); exactly 0 for inputs that are not before the output.
        metrics: `[output]`, log p(output | everything before); baseline_metrics: the same at the baseline.
        errors: `[output]`, sum of the row − (metric − baseline metric).
        baseline, method, steps, explains: as in `Attribution`; the steps are those taken, twice those asked for where a row
            left more than a hundredth of its numbers.
    """

    inputs: tuple[Token, ...]
    outputs: tuple[Token, ...]
    n_prompt: int
    scores: Table
    metrics: Table
    baseline_metrics: Table
    errors: Table
    baseline: str
    method: str
    steps: int
    explains: Literal["plain run", "edited run"]

    @property
    def prompt_scores(self) -> Table:
        """What each token of the prompt was worth for the whole answer, `[pos]`: the sum over outputs."""
        return self.scores[:, : self.n_prompt].sum(0)

    @property
    def log_probability(self) -> float:
        """The log-probability of the whole answer."""
        return float(self.metrics.sum())

    def to_pandas(self) -> Any:
        """One row per pair: output, input, their positions and the score."""
        import pandas as pd

        rows = [
            (o, self.outputs[o].text, i, self.inputs[i].text, float(self.scores[o, i]))
            for o, i in np.ndindex(*self.scores.shape)
        ]
        return pd.DataFrame(rows, columns=["output", "output_token", "input", "input_token", "score"])


def attribute_answer(
    live: LiveModel,
    question: Asked | Question,
    answer: AnswerSpec,
    interventions: Sequence[Intervention] = (),
    method: str = "gradient_x_input",
    steps: int = 32,
    baseline: BaselineSpec = "auto",
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    only: int | None = None,
) -> AnswerAttribution:
    """Every token of `answer` attributed to every token before it, in one go (teacher-forced).

    A row of gradients per output: all of them in one batch, each reading its own position. Occlusion needs one run per
    input for all outputs together. Embeddings of the answer's own tokens are inputs like the prompt's. With `only`, gradients
    are taken of that output alone, and the other rows stay 0. Direct attribution is of each log-probability's tangent.

    Raises:
        PromptError: for an empty answer, or one that does not fit into the context behind the prompt.
        FeatureOffError, InterpError: as `attribute`.

    Example:
        >>> table = attribute_answer(live, asked, " a drink to John")  # doctest: +SKIP
        >>> table.scores.shape == (len(table.outputs), len(table.inputs))  # doctest: +SKIP
        True
    """
    check_request(method, steps)
    asked = question.first if isinstance(question, Question) else question
    outputs = answer_tokens(live, asked, answer)
    what = explained_answer(live, asked.tokens, outputs, interventions)
    task = _Task(what, outputs, memory, progress, cancelled, only)
    explains: Literal["plain run", "edited run"] = "edited run" if what.edited else "plain run"
    if method in ("gradient_x_input", "lrp", "direct"):
        scores, metrics = task.direct() if method == "direct" else task.first_order(method == "lrp")
        at_baseline, name, steps = np.zeros(len(outputs)), "none", 0
    else:
        free = isinstance(baseline, str) and baseline == "auto"
        chosen = find_baseline(live, asked, neutral(live) if free and method == "occlusion" else baseline)
        chosen = _for_all(chosen, what)
        name = chosen.name
        if method == "occlusion":
            scores, metrics, at_baseline = task.occluded(chosen)
            steps = 0
        else:
            scores, metrics, at_baseline, steps = task.integrated(chosen, steps)
    errors = scores.sum(1) - (metrics - at_baseline)
    return AnswerAttribution(
        what.tokens, outputs, len(asked.tokens), scores, metrics, at_baseline, errors, name, method, steps, explains
    )


def attribute_contrast(
    live: LiveModel, question: Asked | Question, answer: AnswerSpec, foil: AnswerSpec, **settings: Any
) -> tuple[Table, float]:
    """Why this answer rather than that one: scores `[pos]` of log p(answer) − log p(foil) over the prompt's tokens.

    Each may have several tokens; both are teacher-forced sequences behind the same prompt. Further keywords are those of
    `attribute_answer`. With answers of one token this is the attribution of their logit difference.

    Returns:
        scores `[pos]` and log p(answer) − log p(foil).

    Raises:
        PromptError: when both are the same tokens.
    """
    asked = question.first if isinstance(question, Question) else question
    one, other = answer_tokens(live, asked, answer), answer_tokens(live, asked, foil)
    if [t.id for t in one] == [t.id for t in other]:
        text = "".join(t.text for t in one)
        raise PromptError(
            f"Answer and foil are both {text!r}, so their difference is 0 whatever the prompt; choose another foil."
        )
    a, b = (attribute_answer(live, asked, tokens, **settings) for tokens in (one, other))
    return a.prompt_scores - b.prompt_scores, a.log_probability - b.log_probability


def attribute_alternative(
    live: LiveModel,
    question: Asked | Question,
    answer: AnswerSpec,
    output: int,
    token: int,
    interventions: Sequence[Intervention] = (),
    method: str = "gradient_x_input",
    steps: int = 32,
    baseline: BaselineSpec = "auto",
    *,
    memory: int = MEMORY,
    cancelled: Cancelled | None = None,
) -> tuple[Table, float]:
    """A row of the answer's table for a token that it might have had instead: log p(token | everything before output).

    Returns:
        scores `[input]` as in a row of `AnswerAttribution.scores`, and the log-probability.

    Raises:
        PromptError: for an output that the answer does not have, or a token that the model does not know.
        FeatureOffError, InterpError: as `attribute_answer`.

    Example:
        >>> scores, metric = attribute_alternative(live, asked, " a drink", 1, token)  # doctest: +SKIP
    """
    check_request(method, steps)
    asked = question.first if isinstance(question, Question) else question
    outputs = answer_tokens(live, asked, answer)
    if not 0 <= output < len(outputs):
        raise PromptError(f"The answer has outputs 0 to {len(outputs) - 1}, not {output}.")
    if not 0 <= token < live.anatomy.vocab:
        raise PromptError(f"{token} is not the id of a token; ids go from 0 to {live.anatomy.vocab - 1}.")
    table = attribute_answer(
        live, asked, (*outputs[:output], live.tokens.token(token)), interventions, method, steps, baseline,
        memory=memory, cancelled=cancelled, only=output,
    )  # fmt: skip
    scores = np.zeros(len(asked.tokens) + len(outputs) - 1)
    scores[: len(table.inputs)] = table.scores[output]
    return scores, float(table.metrics[output])


def answer_tokens(live: LiveModel, asked: Asked, answer: AnswerSpec) -> tuple[Token, ...]:
    """The tokens of an answer, as they stand behind the prompt: no special tokens are added.

    Raises:
        PromptError: for an empty answer, one that cannot be read, or one that does not fit into the context.
    """
    if isinstance(answer, str):
        ids = [int(i) for i in live.tokenizer(answer, add_special_tokens=False)["input_ids"]] if answer else []
    else:
        ids = [t.id if isinstance(t, Token) else t for t in answer]
    if not ids:
        raise PromptError("The answer is empty; give at least one token, or generate one first.")
    room = None if live.tokens.context is None else live.tokens.context - len(asked.tokens)
    if room is not None and len(ids) - 1 > room:
        raise PromptError(
            f"The answer has {len(ids)} tokens, but behind the prompt's {len(asked.tokens)} the model's context holds "
            f"{room}; shorten it by {len(ids) - 1 - room}."
        )
    return tuple(live.tokens.encode(ids))


def explained_answer(
    live: LiveModel, prompt: Sequence[Token], outputs: Sequence[Token], interventions: Sequence[Intervention] = ()
) -> Explained:
    """The log-probability of each output, `[row, output]`, read at the position before it."""
    tokens = (*prompt, *outputs[:-1])
    first = len(prompt) - 1
    ids = [t.id for t in outputs]

    def score(logits: torch.Tensor) -> torch.Tensor:
        # Made here: a tensor that was made in the caller's inference mode has no place in a graph.
        at = torch.tensor(ids, device=logits.device).view(1, -1, 1).expand(logits.shape[0], -1, 1)
        return logits.log_softmax(-1).gather(2, at)[:, :, 0]

    return Explained(live, tokens, tuple(range(first, first + len(outputs))), score, tuple(interventions), len(prompt))


class _Task:
    """One table in the making: rows are run in chunks that fit the memory budget."""

    def __init__(
        self,
        what: Explained,
        outputs: tuple[Token, ...],
        memory: int,
        progress: Progress | None,
        cancelled: Cancelled | None,
        only: int | None = None,
    ) -> None:
        self.rows = range(len(outputs)) if only is None else range(only, only + 1)
        self.what = what
        self.outputs = outputs
        self.memory = memory
        self.progress = progress
        self.cancelled = cancelled
        self.shape = (len(what.positions), len(what.tokens))

    def _said(self, part: float) -> None:
        give_up(self.cancelled)
        if self.progress is not None:
            self.progress(part)

    def _slopes(self, alpha: Sequence[float], weight: Sequence[float], baseline: Baseline | None, lrp: bool) -> Table:
        """Σ_k weight_k · ∂(output o)/∂e at the point alpha_k, dotted with e − b: `[output, input]`."""
        what = self.what
        own = embeddings(what.live, what.tokens).double().cpu()
        step = own if baseline is None else own - baseline.rows(own)
        pairs = [(o, a, w) for a, w in zip(alpha, weight, strict=True) for o in self.rows]
        start, total = 0, torch.zeros(self.shape, dtype=torch.float64, device="cpu")
        size = chunk_rows(replace(what, each=what.positions), self.memory, grad=True)
        while start < len(pairs):
            self._said(start / len(pairs))
            here = pairs[start : start + size]
            rows = _one_output_each(what, self.outputs, [o for o, _, _ in here])
            points = torch.tensor([a for _, a, _ in here], dtype=torch.float64, device="cpu")
            embed = _points(points, baseline)
            _, _, slope = gradients(rows, embed, len(here), self.cancelled, rules=linearised if lrp else None)
            dots = torch.einsum("rpd,pd->rp", slope, step)
            for (o, _, w), dot in zip(here, dots, strict=True):
                total[o] += w * dot
            start += len(here)
        self._said(1.0)
        return total.numpy()

    def _numbers(self, embed: Callable[[torch.Tensor], torch.Tensor], rows: int) -> Table:
        return numbers(self.what, embed, rows, self.cancelled).numpy()

    def first_order(self, lrp: bool) -> tuple[Table, Table]:
        if lrp:
            refuse_parts(self.what.live)
        return self._slopes([1.0], [1.0], None, lrp), self._numbers(lambda own: own[None], 1)[0]

    def direct(self) -> tuple[Table, Table]:
        """What heads carried from each position to each output, and the stream that entered at the output's own."""
        scores, start = np.zeros(self.shape), self.what.positions[0]
        for output, parts in zip(self.rows, direct_rows(self.what, self.rows, self.cancelled), strict=True):
            scores[output] = parts.by_token
            scores[output, start + output] += parts.embedding
        self._said(1.0)
        return scores, self._numbers(lambda own: own[None], 1)[0]

    def integrated(self, baseline: Baseline, steps: int) -> tuple[Table, Table, Table, int]:
        """Scores, metrics at the input and at the baseline, and the steps taken: twice as many where they left too much."""
        ends = self._numbers(_points(torch.tensor([1.0, 0.0], dtype=torch.float64, device="cpu"), baseline), 2)
        alpha, weight = nodes(steps)
        scores = self._slopes(alpha.tolist(), weight.tolist(), baseline, lrp=False)
        errors = scores.sum(1) - (ends[0] - ends[1])
        if not all(small(self.what.live, errors[o], ends[0][o], ends[1][o]) for o in self.rows):
            steps *= 2
            alpha, weight = nodes(steps)
            scores = self._slopes(alpha.tolist(), weight.tolist(), baseline, lrp=False)
        return scores, ends[0], ends[1], steps

    def occluded(self, baseline: Baseline) -> tuple[Table, Table, Table]:
        outputs, n = self.shape
        scores, start = np.zeros(self.shape), 0
        plain = everything = np.zeros(outputs)
        size = max(2, chunk_rows(self.what, self.memory, grad=False))
        while start < n:
            self._said(start / n)
            at = list(range(start, min(start + size - 1, n)))
            masks = torch.zeros(len(at) + 2, n, dtype=torch.bool, device="cpu")
            masks[torch.arange(1, len(at) + 1, device="cpu"), at] = True
            masks[-1] = True
            values = self._numbers(partial(baseline.where, masks), len(masks))
            scores[:, at] = (values[0] - values[1:-1]).T
            plain, everything, start = values[0], values[-1], at[-1] + 1
        self._said(1.0)
        for o, position in enumerate(self.what.positions):
            scores[o, position + 1 :] = 0.0
        return scores, plain, everything


def _one_output_each(what: Explained, outputs: Sequence[Token], at: Sequence[int]) -> Explained:
    """The same run, where row r reads the log-probability of output `at[r]` alone."""
    ids = [outputs[o].id for o in at]

    def score(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0].log_softmax(-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]

    return replace(what, score=score, each=tuple(what.positions[o] for o in at))


def _for_all(baseline: Baseline, what: Explained) -> Baseline:
    """A baseline for the prompt alone leaves the answer's own tokens as they are."""
    own = embeddings(what.live, what.tokens).float().cpu()
    if baseline.values.dim() == 1 or len(baseline.values) == len(own):
        return baseline
    return Baseline(baseline.name, torch.cat([baseline.values, own[len(baseline.values) :]]))


def _points(alpha: torch.Tensor, baseline: Baseline | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if baseline is None:
        return lambda own: own[None].repeat(len(alpha), 1, 1)
    return lambda own: along(own, baseline, alpha)

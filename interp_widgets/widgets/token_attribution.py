"""TokenAttribution: which tokens pushed the answer toward the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import traitlets

from interp_widgets.methods.attribution import METHODS, Attribution, attribute
from interp_widgets.methods.deletion import evidence
from interp_widgets.methods.spans import span_scores
from interp_widgets.model.errors import FeatureOffError, InterpError, InterventionError
from interp_widgets.model.question import Asked
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import Text, bundle
from interp_widgets.widgets.wire import Json, token_of

SPANS = ("token", "word", "sentence", "line")
FIRST = "gradient_x_input"  # about 1.6 forwards: what is shown until a finer method has answered
FINER = ("integrated_gradients", "occlusion", "direct")
KEPT = 8


class TokenAttribution(View):
    """The prompt's tokens, coloured by how much each pushed the target over the foil.

    Gradient × input is there after about 1.6 forwards; the method that was chosen takes its place, and then the evidence: what
    the answer loses when the tokens that scored most are replaced, against random ones.

    Args:
        session: from `iw.open`.
        method: `"integrated_gradients"` (Sundararajan et al. 2017), `"gradient_x_input"`, `"occlusion"`, `"lrp"` or `"direct"`.
        steps: nodes of integrated gradients.
        baseline: `"auto"` (the mean embedding), `"zero"`, `"mean"`, `"bos"`.
        spans: scores of each `"token"`, or summed over a `"word"`, a `"sentence"` or a `"line"`.

    Example:
        >>> iw.TokenAttribution(session, spans="word")  # doctest: +SKIP
    """

    _esm = bundle("token_attribution.js")
    _css = bundle("token_attribution.css")
    settings: ClassVar[frozenset[str]] = frozenset({"method", "steps", "baseline", "spans"})
    method = traitlets.Enum(METHODS, "integrated_gradients").tag(sync=True, echo_update=False)
    steps = traitlets.Int(32, min=1, max=4096).tag(sync=True, echo_update=False)
    baseline = Text("auto").tag(sync=True, echo_update=False)
    spans = traitlets.Enum(SPANS, "token").tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        self._kept: list[tuple[Any, Json]] = []
        super().__init__(session, **settings)

    def _setting_changed(self, change: Any) -> None:
        if change["name"] != "spans":  # the page sums by itself
            super()._setting_changed(change)

    def act(self, action: str, args: Json) -> None:
        """`target` asks the same question for another token, by its id.

        Raises:
            InterventionError: for what is not a token's id.
        """
        if action != "target":
            super().act(action, args)
            return
        token = args.get("id")
        vocabulary = self.session.model.anatomy.vocab
        if type(token) is not int or not 0 <= token < vocabulary:
            raise InterventionError(f"{token!r} is not the id of a token; ids go from 0 to {vocabulary - 1}.")
        self.session.aim(token)

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Explain the run of this revision, edited or plain: roughly at once, then as chosen, then with the evidence."""
        assert snapshot.question is not None
        live, asked = self.session.model, snapshot.question.first
        self.publish(snapshot, "computing")
        key = (
            asked,
            snapshot.question.n,
            snapshot.interventions,
            self.method,
            self.steps,
            self.baseline,
            live.fingerprint(),
        )
        kept = next((data for other, data in self._kept if other == key), None)
        if kept is not None:
            self.publish(snapshot, "done", kept, 1.0)
            return
        groups = groups_of(live, asked)
        if self.method in FINER:
            self._roughly(snapshot, groups, cancelled)
        result = attribute(
            live,
            asked,
            snapshot.interventions,
            self.method,
            self.steps,
            self.baseline,
            progress=lambda done: self.publish(snapshot, "partial", progress=0.9 * done),
            cancelled=cancelled,
        )
        data = attribution_of(result) | {"groups": groups}
        self.publish(snapshot, "partial", data, 0.9)
        which = [f"the first of {snapshot.question.n} prompts"] if snapshot.question.n > 1 else []
        data["line"] = " · ".join([*which, result.line, self._evidence(snapshot, result, cancelled)])
        self._kept = [*self._kept[1 - KEPT :], (key, data)]
        self.publish(snapshot, "done", data, 1.0)

    def _roughly(self, snapshot: Snapshot, groups: Json, cancelled: Callable[[], bool]) -> None:
        """Gradient × input, where the model has gradients."""
        assert snapshot.question is not None
        live, asked = self.session.model, snapshot.question.first
        try:
            rough = attribute(live, asked, snapshot.interventions, FIRST, cancelled=cancelled)
        except FeatureOffError:
            return
        self.publish(snapshot, "partial", attribution_of(rough) | {"groups": groups}, 0.1)

    def _evidence(self, snapshot: Snapshot, result: Attribution, cancelled: Callable[[], bool]) -> str:
        """The deletion test in one line, or why there is none."""
        assert snapshot.question is not None
        try:
            found = evidence(
                self.session.model, snapshot.question.first, result.scores, snapshot.interventions, cancelled=cancelled
            )
        except InterpError as error:
            return f"no deletion test: {error}"
        return found.line


def groups_of(live: Any, asked: Asked) -> Json:
    """Which word, sentence and line each token belongs to: `[pos]`, counted from 0."""
    nothing = np.zeros(len(asked.tokens))
    groups: Json = {}
    for by in SPANS[1:]:
        index: npt.NDArray[np.int32] = np.zeros(len(asked.tokens), np.int32)
        for number, span in enumerate(span_scores(live, asked, nothing, by)):
            index[list(span.positions)] = number
        groups[by] = index
    return groups


def attribution_of(result: Attribution) -> Json:
    """An attribution as the browser is told it."""
    return {
        "method": result.method,
        "tokens": [token_of(t) for t in result.tokens],
        "scores": np.asarray(result.scores, dtype=np.float32),
        "total": result.total,
        "error": result.error,
        "baseline": {"name": result.baseline, "metric": result.baseline_metric},
        "explains": result.explains,
        "line": result.line,
        "methods": list(METHODS),
    }

"""TokenAttribution: which tokens pushed the answer toward the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import traitlets

from interp_widgets.methods.attribution import METHODS, Attribution, attribute
from interp_widgets.session import Session, Snapshot
from interp_widgets.widgets.base import View
from interp_widgets.widgets.guard import Text, bundle
from interp_widgets.widgets.wire import Json, token_of


class TokenAttribution(View):
    """The prompt's tokens, coloured by how much each pushed the target over the foil.

    Args:
        session: from `iw.open`.
        method: `"integrated_gradients"` (Sundararajan et al. 2017), `"gradient_x_input"` or `"occlusion"`.
        steps: nodes of integrated gradients.
        baseline: `"auto"` (the mean embedding), `"zero"`, `"mean"`, `"bos"`.

    Example:
        >>> iw.TokenAttribution(session)  # doctest: +SKIP
    """

    _esm = bundle("token_attribution.js")
    _css = bundle("token_attribution.css")
    settings: ClassVar[frozenset[str]] = frozenset({"method", "steps", "baseline"})
    method = traitlets.Enum(METHODS, "integrated_gradients").tag(sync=True, echo_update=False)
    steps = traitlets.Int(32, min=1, max=4096).tag(sync=True, echo_update=False)
    baseline = Text("auto").tag(sync=True, echo_update=False)

    def __init__(self, session: Session, **settings: Any) -> None:
        super().__init__(session, **settings)

    def compute(self, snapshot: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Explain the run of this revision, edited or plain."""
        assert snapshot.question is not None
        self.publish(snapshot, "computing")
        result = attribute(
            self.session.model,
            snapshot.question,
            snapshot.interventions,
            self.method,
            self.steps,
            self.baseline,
            progress=lambda done: self.publish(snapshot, "computing", progress=done),
            cancelled=cancelled,
        )
        self.publish(snapshot, "done", attribution_of(result), 1.0)


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

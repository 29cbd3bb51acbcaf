"""Live Jupyter widgets for looking inside transformers, hooked to your own model.

import interp_widgets as iw

session = iw.open()
session.ask("When Mary and John went to the store, John gave a drink to", target=" Mary", foil=" John")
iw.HeadAblation(session)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp_widgets.answer import Answer
from interp_widgets.api import (
    attention,
    attribute,
    attribute_answer,
    checkpoints,
    contrast,
    contrast_answers,
    deletion_test,
    direct_attribution,
    dose_response,
    head_effects,
    open,
    patching,
    position_effects,
    prompts,
    self_repair,
    span_scores,
    steering_vector,
)
from interp_widgets.methods.answers import AnswerAttribution
from interp_widgets.methods.attribution import Attribution
from interp_widgets.methods.deletion import Deletion
from interp_widgets.methods.direct_tokens import DirectTokens
from interp_widgets.methods.dose_response import DoseResponse
from interp_widgets.methods.head_effects import HeadEffects
from interp_widgets.methods.position_effects import PositionEffects
from interp_widgets.methods.self_repair import RepairReport
from interp_widgets.methods.spans import Span
from interp_widgets.methods.steering import SteeringVector
from interp_widgets.model.errors import (
    CancelledError,
    ClosedError,
    FeatureOffError,
    InterpError,
    InterventionError,
    ModelChangedError,
    ModelRefusedError,
    PromptError,
    SiteError,
)
from interp_widgets.model.interventions import Ablate, Edit, Patch, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.positions import tokens
from interp_widgets.model.question import Example, Question, Token
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.reference import Reference
from interp_widgets.model.run import Run
from interp_widgets.model.sites import Site
from interp_widgets.session import Session
from interp_widgets.version import __version__

if TYPE_CHECKING:
    from interp_widgets import interop as interop
    from interp_widgets.widgets.attention_patterns import AttentionPatterns
    from interp_widgets.widgets.generation import Generation
    from interp_widgets.widgets.head_ablation import HeadAblation
    from interp_widgets.widgets.self_repair import SelfRepair
    from interp_widgets.widgets.steering_sliders import SteeringSliders
    from interp_widgets.widgets.token_attribution import TokenAttribution

__all__ = [
    "Ablate",
    "Answer",
    "AnswerAttribution",
    "AttentionPatterns",
    "Attribution",
    "CancelledError",
    "ClosedError",
    "Deletion",
    "DirectTokens",
    "DoseResponse",
    "Edit",
    "Example",
    "FeatureOffError",
    "Generation",
    "HeadAblation",
    "HeadEffects",
    "InterpError",
    "InterventionError",
    "LiveModel",
    "ModelChangedError",
    "ModelRefusedError",
    "Patch",
    "PositionEffects",
    "PromptError",
    "Question",
    "Receipt",
    "Reference",
    "RepairReport",
    "Run",
    "SelfRepair",
    "Session",
    "Site",
    "SiteError",
    "Span",
    "Steer",
    "SteeringSliders",
    "SteeringVector",
    "Token",
    "TokenAttribution",
    "__version__",
    "attention",
    "attribute",
    "attribute_answer",
    "checkpoints",
    "contrast",
    "contrast_answers",
    "deletion_test",
    "direct_attribution",
    "dose_response",
    "head_effects",
    "open",
    "patching",
    "position_effects",
    "prompts",
    "self_repair",
    "span_scores",
    "steering_vector",
    "tokens",
]

_VIEWS = {
    "AttentionPatterns": "attention_patterns",
    "Generation": "generation",
    "HeadAblation": "head_ablation",
    "SelfRepair": "self_repair",
    "SteeringSliders": "steering_sliders",
    "TokenAttribution": "token_attribution",
}

if not TYPE_CHECKING:  # a checker reads the imports above, and still names an attribute that does not exist

    def __getattr__(name: str) -> Any:
        """A view's class, or `interop`, loaded when it is first named: views are half of what importing the package would cost."""
        if name == "interop":
            return import_module(f"{__name__}.interop")
        if name not in _VIEWS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        view = globals()[name] = getattr(import_module(f"{__name__}.widgets.{_VIEWS[name]}"), name)
        return view

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

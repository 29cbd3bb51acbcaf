"""The public functions: each takes a session or a live model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from interp_widgets.methods import answers as _answers
from interp_widgets.methods import attention as _attention
from interp_widgets.methods import attribution as _attribution
from interp_widgets.methods import deletion as _deletion
from interp_widgets.methods import direct_tokens as _direct_tokens
from interp_widgets.methods import dose_response as _dose_response
from interp_widgets.methods import head_effects as _head_effects
from interp_widgets.methods import patching as _patching
from interp_widgets.methods import position_effects as _position_effects
from interp_widgets.methods import self_repair as _self_repair
from interp_widgets.methods import spans as _spans
from interp_widgets.methods import steering as _steering
from interp_widgets.model.errors import InterpError, ModelRefusedError, PromptError
from interp_widgets.model.interventions import Intervention
from interp_widgets.model.live import LiveModel, open_model
from interp_widgets.model.question import Question
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import Site
from interp_widgets.model.unwrap import held_by
from interp_widgets.session import Session
from interp_widgets.session_json import read_json, restore

if TYPE_CHECKING:
    from interp_widgets.builtin.prompts import NamedPrompt

_SMALL = 2_000_000_000
_MIX = 96
_SHIPPED: dict[str, tuple[nn.Module, Any, Reference | None]] = {}


def open(
    model: str | nn.Module | None = None,
    tokenizer: Any = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    cache_bytes: int = 256 << 20,
) -> Session:
    """Open a live model and start a session on it.

    Args:
        model: None for the embedded model, `"embedded@1500"` for a checkpoint of it, `"embedded:names"` or `"embedded:addition"`
            for the other models that ship, `"known:induction"` for a circuit that is known, a hub name or folder, or a module,
            which is taken as it is.
        tokenizer: for a module; a hub name brings its own.
        device: where a hub model is put.
        dtype: of a hub model; float32 below two billion parameters unless told.
        cache_bytes: the most that is kept between runs.

    Raises:
        ModelRefusedError: when the model cannot be opened; the sentence names the reason.

    Example:
        >>> session = iw.open()  # doctest: +SKIP
        >>> session = iw.open(model, tokenizer)  # doctest: +SKIP
    """
    if isinstance(model, nn.Module):
        module, words, reference, name = model, _tokenizer_for(model, tokenizer), None, None
    elif model is None or _is_shipped(model):
        name = model or "embedded"
        module, words, reference = _shipped(name)
    elif isinstance(model, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        module, words = _from_hub(model, tokenizer, device, dtype)
        reference, name = None, model
    else:
        raise ModelRefusedError(
            f"iw.open takes a model, a name, or nothing, not {type(model).__name__}: pass the model itself, {held_by(model)}."
        )
    return Session(open_model(module, words, name=name, reference=reference or _generic(), cache_bytes=cache_bytes))


def _is_shipped(name: object) -> bool:
    return isinstance(name, str) and (name.split("@")[0].split(":")[0] in ("embedded", "known"))


def _shipped(name: str) -> tuple[nn.Module, Any, Reference | None]:
    if name not in _SHIPPED:
        if name.startswith("known:"):
            from interp_widgets.builtin.known import known

            module, words, circuit = known(name.removeprefix("known:"))
            _SHIPPED[name] = (module, words, Reference("the circuit's own prompt", (circuit.prompt,)))
        else:
            from interp_widgets.builtin.load import load
            from interp_widgets.builtin.prompts import references

            module, words = load(name)
            _SHIPPED[name] = (module, words, _corpus_mix(references(name)))
    return _SHIPPED[name]


def _corpus_mix(sets: Mapping[str, tuple[str, ...]]) -> Reference:
    """A few prompts of every family that the embedded model was trained on."""
    families = [prompts for name, prompts in sets.items() if name != "generic text"]
    each = max(1, _MIX // len(families))
    return Reference("corpus mix", tuple(p for prompts in families for p in prompts[:each]))


def _generic() -> Reference:
    from interp_widgets.builtin.generic import SENTENCES

    return Reference("generic text", tuple(SENTENCES))


def _tokenizer_for(module: nn.Module, tokenizer: Any) -> Any:
    if tokenizer is None:
        raise ModelRefusedError(
            f"iw.open({type(module).__name__}) needs the model's tokenizer too: iw.open(model, tokenizer); "
            "AutoTokenizer.from_pretrained gives it."
        )
    return tokenizer


def _from_hub(name: str, tokenizer: Any, device: Any, dtype: Any) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        words = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        module: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto", trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelRefusedError(f"The model {name!r} could not be loaded: {first}") from error
    if dtype is None and sum(p.numel() for p in module.parameters()) < _SMALL:
        module = module.float()
    return (module.to(device) if device is not None else module).eval(), words


def _live(x: Session | LiveModel) -> LiveModel:
    if isinstance(x, Session):
        return x.model
    if isinstance(x, LiveModel):  # pyright: ignore[reportUnnecessaryIsInstance]
        return x
    raise InterpError(f"Pass a session (iw.open(...)) or a live model (session.model), not {type(x).__name__}.")


def _asked(x: Session | LiveModel, question: Question | None) -> tuple[LiveModel, Question, tuple[Intervention, ...]]:
    """The model, the question, and what is on: a session's own, unless a question is passed."""
    if question is None and isinstance(x, Session):
        question = x.question
    if question is None:
        raise PromptError("There is no question; call session.ask(prompt, target, foil) first, or pass one.")
    return _live(x), question, x.snapshot().interventions if isinstance(x, Session) else ()


def attention(
    x: Session | LiveModel, question: Question | None = None, *, value_weighted: bool = False
) -> npt.NDArray[np.float32]:
    """Where every head looks, `[layer, head, dest, src]`, under what is on; see `interp_widgets.methods.attention.attention`.

    Args:
        value_weighted: attention times the norm of what it carries, ‖v_src W_O‖ (Kobayashi et al. 2020).

    Example:
        >>> iw.attention(session)[1, 4].argmax(-1)  # doctest: +SKIP
    """
    live, asked, interventions = _asked(x, question)
    found = _attention.attention(live, asked.first, interventions, value_weighted=value_weighted)
    return found.value_weighted if value_weighted else found.patterns


def attribute(
    x: Session | LiveModel,
    question: Question | None = None,
    method: str = "integrated_gradients",
    steps: int = 32,
    baseline: Any = "auto",
) -> _attribution.Attribution:
    """What each token was worth; see `interp_widgets.methods.attribution.attribute`.

    Example:
        >>> iw.attribute(session).scores  # doctest: +SKIP
    """
    live, asked, interventions = _asked(x, question)
    return _attribution.attribute(live, asked, interventions, method, steps, baseline)


def attribute_answer(
    x: Session | LiveModel,
    answer: str | Sequence[int],
    question: Question | None = None,
    method: str = "gradient_x_input",
    steps: int = 32,
    baseline: Any = "auto",
) -> _answers.AnswerAttribution:
    """What every token was worth to every token of an answer behind it, `[output, input]`; see `interp_widgets.methods.answers`.

    Example:
        >>> session = iw.open("known:induction")
        >>> question = session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
        >>> iw.attribute_answer(session, "bird fish").scores.shape
        (2, 11)
    """
    live, asked, interventions = _asked(x, question)
    return _answers.attribute_answer(live, asked, answer, interventions, method, steps, baseline)


def contrast_answers(
    x: Session | LiveModel,
    answer: str | Sequence[int],
    foil: str | Sequence[int],
    question: Question | None = None,
    method: str = "gradient_x_input",
    steps: int = 32,
    baseline: Any = "auto",
) -> tuple[npt.NDArray[np.float64], float]:
    """Why this answer rather than that one, of any lengths: scores `[pos]` of the prompt, and log p(answer) − log p(foil).

    Example:
        >>> session = iw.open("known:induction")
        >>> question = session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
        >>> scores, difference = iw.contrast_answers(session, "bird fish", "leaf")
        >>> scores.shape
        (10,)
    """
    live, asked, interventions = _asked(x, question)
    return _answers.attribute_contrast(
        live, asked, answer, foil, interventions=interventions, method=method, steps=steps, baseline=baseline
    )


def deletion_test(
    x: Session | LiveModel,
    scores: npt.ArrayLike,
    question: Question | None = None,
    baseline: Any = "auto",
    **options: Any,
) -> _deletion.Deletion:
    """What the answer becomes as the tokens that scored most are replaced; see `interp_widgets.methods.deletion.deletion_test`.

    Example:
        >>> session = iw.open("known:induction")
        >>> question = session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
        >>> test = iw.deletion_test(session, iw.attribute(session, method="occlusion").scores)
        >>> bool(test.deletion_area < test.random_deletion_areas.mean())
        True
    """
    live, asked, interventions = _asked(x, question)
    return _deletion.deletion_test(live, asked, scores, interventions, baseline, **options)


def direct_attribution(x: Session | LiveModel, question: Question | None = None) -> _direct_tokens.DirectTokens:
    """What each head carried from each token straight to the answer, `[layer, head, src]`, and the rest: it sums to the metric.

    See `interp_widgets.methods.direct_tokens.direct_by_source`.

    Example:
        >>> session = iw.open("known:induction")
        >>> question = session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
        >>> parts = iw.direct_attribution(session)
        >>> abs(parts.error) < 1e-3
        True
    """
    live, asked, interventions = _asked(x, question)
    return _direct_tokens.direct_by_source(live, asked, interventions)


def span_scores(
    x: Session | LiveModel, scores: npt.ArrayLike, by: Any = "word", question: Question | None = None
) -> tuple[_spans.Span, ...]:
    """Scores summed over words, sentences, lines, spans of your own or a regular expression; see `interp_widgets.methods.spans`.

    Example:
        >>> session = iw.open("known:induction")
        >>> question = session.ask("cat dog bird fish tree leaf stone river dog", "bird", "fish")
        >>> [span.score for span in iw.span_scores(session, [1.0] * 10, [(2, 5)])]
        [2.0, 3.0, 5.0]
    """
    live, asked, _ = _asked(x, question)
    return _spans.span_scores(live, asked, scores, by)


def head_effects(
    x: Session | LiveModel,
    question: Question | None = None,
    mode: str = "mean",
    reference: Any = None,
    *,
    draws: int = 1,
) -> _head_effects.HeadEffects:
    """What each head and MLP was worth; see `interp_widgets.methods.head_effects.head_effects`.

    Example:
        >>> iw.head_effects(session, mode="zero").effects.shape  # doctest: +SKIP
        (4, 8)
    """
    live, asked, interventions = _asked(x, question)
    chosen = Reference.of(reference) or (x.reference if isinstance(x, Session) else None)
    return _head_effects.head_effects(live, asked, interventions, mode, chosen, draws=draws)  # pyright: ignore[reportArgumentType]


def position_effects(x: Session | LiveModel, question: Question | None = None) -> _position_effects.PositionEffects:
    """What the interventions change at every position; see `interp_widgets.methods.position_effects.position_effects`.

    Example:
        >>> iw.position_effects(session).kl  # doctest: +SKIP
    """
    live, asked, interventions = _asked(x, question)
    return _position_effects.position_effects(live, asked, interventions)


def patching(x: Session | LiveModel, question: Question | None = None, over: str = "resid") -> _patching.Patching:
    """What of a run carries the difference to the corrupt prompt; see `interp_widgets.methods.patching.patching`.

    Args:
        over: `"resid"`, the stream at every layer and position, or `"heads"`, every head.

    Example:
        >>> session = iw.open("known:induction")
        >>> prompt, corrupt = (
        ...     "cat dog bird fish tree leaf stone river dog",
        ...     "cat leaf bird fish tree dog stone river dog",
        ... )
        >>> question = session.ask(prompt, "bird", "fish", corrupt=corrupt)
        >>> (iw.patching(session, over="heads").denoise > 0.5).sum(axis=1)  # one head of each layer is all it takes
        array([1, 1])
    """
    live, asked, interventions = _asked(x, question)
    return _patching.patching(live, asked, over, interventions)  # pyright: ignore[reportArgumentType]


def self_repair(
    x: Session | LiveModel,
    ablated: str | Site | Sequence[str | Site],
    question: Question | None = None,
    mode: str = "mean",
    reference: Any = None,
) -> _self_repair.RepairReport:
    """What ablating parts costs, and who makes up for it; see `interp_widgets.methods.self_repair.self_repair`.

    Example:
        >>> print(iw.self_repair(session, ["L1H0"], mode="zero").words)  # doctest: +SKIP
    """
    live, asked, interventions = _asked(x, question)
    chosen = Reference.of(reference) or (x.reference if isinstance(x, Session) else None)
    return _self_repair.self_repair(live, asked, ablated, mode, interventions, reference=chosen)  # pyright: ignore[reportArgumentType]


def steering_vector(
    x: Session | LiveModel,
    positive: str | Sequence[str],
    negative: str | Sequence[str],
    site: str | Site,
    method: str = "mean_difference",
    *,
    name: str | None = None,
    **options: Any,
) -> _steering.SteeringVector:
    """A direction from contrastive prompts; see `interp_widgets.methods.steering.steering_vector`.

    Example:
        >>> iw.steering_vector(session, ["I loved it."], ["I hated it."], "L1", name="mood")  # doctest: +SKIP
    """
    return _steering.steering_vector(_live(x), positive, negative, site, method, name=name, **options)  # pyright: ignore[reportArgumentType]


def dose_response(
    x: Session | LiveModel, vector: Any, strengths: Sequence[float] | None = None, question: Question | None = None
) -> _dose_response.DoseResponse:
    """How the answer moves with a vector's strength; see `interp_widgets.methods.dose_response.dose_response`.

    Example:
        >>> iw.dose_response(session, mood).metric.shape  # doctest: +SKIP
        (21,)
    """
    live, asked, interventions = _asked(x, question)
    return _dose_response.dose_response(live, asked.first, vector, strengths, interventions=interventions)


def prompts() -> Mapping[str, NamedPrompt]:
    """Named example questions for the embedded model, with target, foil and corrupt prompt.

    Example:
        >>> iw.prompts()["capital"].target  # doctest: +SKIP
        ' Paris'
    """
    from interp_widgets.builtin.prompts import prompts as named

    return named()


def contrast(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Matched positive and negative prompts for a steering vector: `"sentiment"`, `"french"`, `"gender"`.

    Example:
        >>> praise, blame = iw.contrast("sentiment")  # doctest: +SKIP
    """
    from interp_widgets.builtin.prompts import contrast as named

    return named(name)


def checkpoints(name: str = "embedded") -> list[str]:
    """The checkpoints of a shipped model, in the order of training, as names that `open` takes.

    Example:
        >>> [iw.open(c) for c in iw.checkpoints("embedded")]  # doctest: +SKIP
    """
    from interp_widgets.builtin.load import checkpoints as named

    return named(name)


def session_from_json(text: str, model: Any = None, tokenizer: Any = None) -> Session:
    """A session from `Session.to_json`'s text.

    Raises:
        InterventionError: when the text is not a saved session.
    """
    saved = read_json(text)
    session = open(model if model is not None else saved.model, tokenizer)
    try:
        told = restore(session, saved)
    except BaseException:
        session.close()
        raise
    for sentence in told:
        warnings.warn(sentence, stacklevel=3)  # at the line that calls Session.from_json
    return session

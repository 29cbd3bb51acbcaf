"""A session as JSON, and back: the same question, interventions, vectors, references and mode."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_widgets.code import corrupt_text
from interp_widgets.methods.directions import Separation
from interp_widgets.methods.steering import SteeringVector
from interp_widgets.model.errors import InterpError, InterventionError
from interp_widgets.model.interventions import Ablate, AblateMode, Edit, Intervention, Patch, Steer
from interp_widgets.model.live import LiveModel
from interp_widgets.model.positions import Positions, tokens
from interp_widgets.model.question import Asked, Metric, Question, Token
from interp_widgets.model.reference import Reference
from interp_widgets.model.sites import Site
from interp_widgets.model.vector import Vector
from interp_widgets.moment import Entry

if TYPE_CHECKING:
    from interp_widgets.session import Session

FORMAT = 2
_FORMATS = (1, FORMAT)


def to_json(session: Session, own: Reference | None) -> str:
    """The present state as JSON text; own code is left out and named under `"left_out"`.

    Args:
        own: the reference that the session was given, None where it takes the question's or the model's.
    """
    now, used = session.now, session.reference
    examples = () if now.question is None else now.question.examples
    metrics = [f"metric {a.metric.label} (own code)" for a in examples if a.metric.fn is not None]
    edits = [e.intervention.label for e in now.entries if isinstance(e.intervention, Edit)]
    data: dict[str, Any] = {
        "format": FORMAT,
        "model": session.model.name,
        "mode": session.mode,
        "reference": _pack_reference(own),
        "used": None if used is None else [used.name, used.digest],
        "vectors": [[name, _pack_steering(vector)] for name, vector in session.vectors.items()],
        "question": None if now.question is None else [_pack_asked(asked) for asked in examples],
        "interventions": [
            _pack(e.intervention) | {"on": e.on} for e in now.entries if not isinstance(e.intervention, Edit)
        ],
        "left_out": [*dict.fromkeys(metrics), *edits],
    }
    return json.dumps(data, allow_nan=False)


def _pack_asked(asked: Asked) -> dict[str, Any]:
    """One example, as its tokens: a text may be read otherwise when it is loaded."""
    return {
        "prompt": asked.prompt,
        "message": asked.message,
        "tokens": _pack_tokens(asked.tokens),
        "target": list(asked.metric.target),
        "foil": list(asked.metric.foil),
        "position": asked.position,
        "corrupt": None if asked.corrupt is None else _pack_tokens(asked.corrupt),
        "corrupt_prompt": asked.corrupt_prompt,
    }


def _pack_tokens(found: Sequence[Token]) -> list[list[Any]]:
    return [[t.id, t.text, t.kind] for t in found]


def _pack(intervention: Intervention) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": type(intervention).__name__, "site": intervention.site.name}
    data["positions"] = _pack_positions(intervention.positions)
    if isinstance(intervention, Ablate):
        data |= {"mode": intervention.mode, "edge": intervention.edge}
        data["reference"] = _pack_reference(intervention.reference)
    elif isinstance(intervention, Steer):
        data |= {"vector": _pack_vector(intervention.vector), "coefficient": intervention.coefficient}
        data |= {"mode": intervention.mode, "name": intervention.name, "origin": intervention.origin}
    elif isinstance(intervention, Patch):
        source = intervention.source
        data["source"] = source if isinstance(source, str) else _pack_vector(source)
    return data


def _pack_reference(reference: Reference | None) -> list[Any] | None:
    if reference is None:
        return None
    return [reference.name, list(reference.prompts), reference.by_position, reference.pairs]


def _pack_positions(p: Positions) -> dict[str, Any]:
    return {
        "kind": p.kind,
        "start": p.start,
        "stop": p.stop,
        "step": p.step,
        "at": list(p.at),
        "text": p.text,
        "label": p.label,
    }


def _pack_vector(vector: Vector) -> dict[str, Any]:
    return {
        "shape": list(vector.shape),
        "float32": base64.b64encode(vector.values.astype("<f4").tobytes()).decode("ascii"),
    }


def _pack_steering(vector: SteeringVector) -> dict[str, Any]:
    kept = vector.separation
    return {
        "vector": _pack_vector(vector.vector),
        "name": vector.name,
        "site": vector.site.name,
        "model": vector.model,
        "n_layers": vector.n_layers,
        "source": vector.source,
        "prompts": vector.prompts,
        "residual": vector.residual,
        "difference": vector.difference,
        "origin": vector.origin,
        "centred": vector.centred,
        "separation": None if kept is None else [kept.auc, kept.accuracy, kept.n, kept.folds],
    }


# ---- and back -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A saved session as far as it can be read without its model.

    Attributes:
        model: its name.
        question: its examples, still packed: their tokens are the model's.
        used: name and digest of the reference that was in force.
        left_out: labels of own code.
    """

    model: str | None
    mode: AblateMode
    reference: Reference | None
    vectors: tuple[tuple[str, SteeringVector], ...]
    question: tuple[Mapping[str, Any], ...]
    entries: tuple[Entry, ...]
    used: tuple[str, str] | None
    left_out: tuple[str, ...]


def read_json(text: str) -> Saved:
    """Parse `to_json`'s text, of this form or of an older one.

    Raises:
        InterventionError: when it is not such a text, or holds what is never loaded.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InterventionError(f"This is not a saved session: {error}.") from None
    if not isinstance(data, dict) or data.get("format") not in _FORMATS:
        raise InterventionError(f"This is not a session saved by this version (format {FORMAT}); save it again.")
    found: dict[str, Any] = data
    with _reading_of("session"):
        used = found.get("used")
        return Saved(
            found.get("model"),
            Ablate("L0H0", found.get("mode") or "mean").mode,
            _unpack_reference(found.get("reference")),
            tuple((str(name), _unpack_steering(vector)) for name, vector in found.get("vectors") or ()),
            tuple(found.get("question") or ()),
            tuple(Entry(unpack(one), bool(one.get("on", True))) for one in found.get("interventions") or ()),
            None if used is None else (str(used[0]), str(used[1])),
            tuple(str(label) for label in found.get("left_out") or ()),
        )


@contextlib.contextmanager
def _reading_of(what: str) -> Generator[None]:
    """Say in a sentence that a saved thing cannot be read."""
    try:
        yield
    except InterpError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InterventionError(f"A saved {what} cannot be read: {type(error).__name__} {error}.") from None


def restore(session: Session, saved: Saved) -> list[str]:
    """Bring a session that was just opened to the saved state; returns what a reader has to know, in sentences.

    Raises:
        InterpError: for what this model cannot take.
    """
    for name, vector in saved.vectors:
        session.add_vector(vector, name)
    if saved.reference is not None:
        session.reference = saved.reference
    if saved.question:
        with _reading_of("question"):
            question = Question(tuple(_unpack_asked(session.model, item) for item in saved.question))
        session.put(question)
    if saved.entries:
        session.set(*[entry.intervention for entry in saved.entries])
    # `set` has looked at each of them, and switches all of them on.
    mark = session.mark()
    now = replace(session.now, entries=saved.entries)
    session.rewind(replace(mark, moments=(*mark.moments[:-1], now), mode=saved.mode))
    return [*_not_loaded(session, saved), *_other_reference(session, saved)]


def _not_loaded(session: Session, saved: Saved) -> list[str]:
    label = session.question.label if session.question is not None else ""
    instead = f" Until then the answer is the {label}."
    return [
        f"{left}: own code is never loaded; set it again by hand.{instead if left.startswith('metric ') else ''}"
        for left in saved.left_out
    ]


def _other_reference(session: Session, saved: Saved) -> list[str]:
    """The model's own reference may be another one, as where its module is passed and not its name."""
    used = session.reference
    ablations = [one for one in session.interventions if isinstance(one, Ablate) and one.reference is None]
    needed = any(one.mode in ("mean", "resample") for one in ablations)
    if not needed or saved.used is None or (used is not None and used.digest == saved.used[1]):
        return []
    here = "no reference" if used is None else f"the reference {used.name!r}"
    sentence = (
        f"The ablations had the reference {saved.used[0]!r} where this session was saved, and have {here} here, so their "
        "numbers are others; open the model by its name, or assign session.reference."
    )
    return [sentence]


def _unpack_asked(live: LiveModel, item: Mapping[str, Any]) -> Asked:
    found = _unpack_tokens(live, item["tokens"] if "tokens" in item else item["ids"])
    position = item["position"]
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < len(found):
        raise InterventionError(f"The saved position {position!r} does not exist: its prompt has {len(found)} tokens.")
    target = live.tokens.many("target", item["target"])
    foil = live.tokens.many("foil", item["foil"] or None)
    corrupt = _unpack_tokens(live, item["corrupt"]) if item["corrupt"] else None
    metric = Metric(tuple(t.id for t in target), tuple(t.id for t in foil))
    text, said = item.get("corrupt_prompt"), item.get("message")
    shown = item["prompt"] or live.tokens.raw.decode([t.id for t in found])
    asked = Asked(str(shown), found, metric, target, foil, position, corrupt, text, said)
    if corrupt is None or "corrupt_prompt" in item:
        return asked
    return replace(asked, corrupt_prompt=corrupt_text(live, asked))


def _unpack_tokens(live: LiveModel, packed: Sequence[Any]) -> tuple[Token, ...]:
    """Tokens as they were saved: with their texts and marks, or as ids alone by an older version."""
    if packed and isinstance(packed[0], int):
        return live.tokens.encode(packed)
    return live.tokens.encode(tuple(Token(int(i), str(text), str(kind)) for i, text, kind in packed))


def unpack(data: dict[str, Any]) -> Intervention:
    """One intervention from its JSON.

    Raises:
        InterventionError: for a kind that is unknown, `Edit` included: own code is never loaded.
    """
    with _reading_of("intervention"):
        positions = _unpack_positions(data["positions"]) if data["kind"] in ("Ablate", "Steer", "Patch") else None
        if data["kind"] == "Ablate" and positions is not None:
            edge, reference = tuple(data["edge"]) if data["edge"] else None, _unpack_reference(data["reference"])
            where = (
                positions if edge is None else "all"
            )  # an older version saved positions of an edge, which say nothing
            return Ablate(data["site"], data["mode"], reference, where, edge)  # pyright: ignore[reportArgumentType]
        if data["kind"] == "Steer" and positions is not None:
            vector, origin = _unpack_vector(data["vector"]), data.get("origin", 0.0)
            return Steer(data["site"], vector, data["coefficient"], data["mode"], positions, data["name"], origin)
        if data["kind"] == "Patch" and positions is not None:
            source = data["source"]
            return Patch(data["site"], source if isinstance(source, str) else _unpack_vector(source), positions)
    raise InterventionError(f"Interventions of the kind {data.get('kind')!r} are not loaded from JSON.")


def _unpack_reference(packed: Sequence[Any] | None) -> Reference | None:
    if packed is None:
        return None
    pairs = packed[3] if len(packed) > 3 else ()
    return Reference(
        str(packed[0]), tuple(packed[1]), bool(packed[2]), tuple((tuple(own), tuple(other)) for own, other in pairs)
    )


def _unpack_positions(p: dict[str, Any]) -> Positions:
    if p["kind"] == "text":
        return Positions.of(tokens(p["text"]))
    return Positions(p["kind"], p["start"], p["stop"], p["step"], tuple(p["at"]), p["text"], p["label"])


def _unpack_vector(data: dict[str, Any]) -> Vector:
    numbers = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4")
    return Vector(numbers.reshape(data["shape"]))


def _unpack_steering(data: dict[str, Any]) -> SteeringVector:
    kept = data["separation"]
    return SteeringVector(
        _unpack_vector(data["vector"]), data["name"], Site.parse(data["site"]), data["model"], data["n_layers"],
        data["source"], data["prompts"], data["residual"], data["difference"], data["origin"], data["centred"],
        None if kept is None else Separation(*kept),
    )  # fmt: skip

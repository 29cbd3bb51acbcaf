"""From what a user asks to a question: the prompt's tokens, what counts for and against, and where the answer is read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp_widgets.model.errors import PromptError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Example, Metric, MetricFn, Prompt, Question, Token

TokenSpec = str | int | Sequence[str | int] | None


@dataclass(frozen=True)
class Reading:
    """How every example of a question is read; see `Session.ask`."""

    metric: MetricFn | None = None
    position: int = -1
    bos: bool | None = None


@dataclass(frozen=True)
class _Raw:
    """An example whose prompt is not a text."""

    prompt: Prompt
    target: TokenSpec
    foil: TokenSpec
    corrupt: str | None


def question_of(
    live: LiveModel,
    prompt: Prompt | Sequence[Example],
    target: TokenSpec,
    foil: TokenSpec,
    corrupt: str | None,
    reading: Reading,
) -> Question:
    """The question that `Session.ask` was asked; a target that was not named is the model's own top token.

    Raises:
        PromptError: for a prompt, target or foil that cannot be asked, with the number of the example in a set.
    """
    examples = _examples(prompt, target, foil, corrupt)
    names = [f"Example {n}: " for n in range(len(examples))] if len(examples) > 1 else [""]
    return Question(tuple(_asked(live, example, reading, name) for name, example in zip(names, examples, strict=True)))


def asked_again(
    live: LiveModel, now: Question | None, prompt: str, target: TokenSpec, foil: TokenSpec, *, chat: bool
) -> Question:
    """The question that a page asks: what was not touched there stays as it is.

    With the prompt as it was, its tokens, position, corrupt prompt and the other prompts of a set stay. A new prompt is asked
    alone, read at its end, by the same metric, and with a BOS where the one before had it.

    Raises:
        PromptError: as `question_of`.
    """
    if now is None:
        return question_of(live, _said(prompt, chat=chat), target, foil, None, Reading())
    first = now.first
    if prompt == (first.message if chat else first.prompt) and chat == (first.message is not None):
        return Question(tuple(_aimed(live, asked, first, target, foil) for asked in now.examples))
    reading = Reading(first.metric.fn, -1, None if chat else _bos(live, first))
    return question_of(live, _said(prompt, chat=chat), target, foil, None, reading)


def _said(prompt: str, *, chat: bool) -> Prompt:
    return [{"role": "user", "content": prompt}] if chat else prompt  # pyright: ignore[reportReturnType]


def _aimed(live: LiveModel, asked: Asked, first: Asked, target: TokenSpec, foil: TokenSpec) -> Asked:
    """One example for another target and foil; in a set whose first example keeps its own, each keeps its own."""
    wanted, against = live.tokens.many("target", target), live.tokens.many("foil", foil)
    if (wanted, against) == (first.target, first.foil):
        return asked
    return _read_by(asked, wanted or (live.tokens.token(int(live.answer(asked).logits.argmax())),), against)


def _read_by(asked: Asked, target: tuple[Token, ...], foil: tuple[Token, ...]) -> Asked:
    """The same example for this target and foil."""
    _differ(target, foil)
    own = Metric(tuple(t.id for t in target), tuple(t.id for t in foil), asked.metric.fn)
    return replace(asked, target=target, foil=foil, metric=own)


def _bos(live: LiveModel, asked: Asked) -> bool | None:
    """How a prompt was asked: with a BOS before it, without, or as its tokenizer has it."""
    if asked.message is not None:
        return None
    for bos in (None, True, False):
        with contextlib.suppress(PromptError):
            if [t.id for t in live.tokens.encode(asked.prompt, bos)] == list(asked.ids):
                return bos
    return None


def aimed_at(asked: Asked, target: tuple[Token, ...]) -> Asked:
    """The same example for another target; a target that was the foil changes places with the old one."""
    same = {t.id for t in target} & {t.id for t in asked.foil}
    return _read_by(asked, target, asked.target if same else asked.foil)


def _examples(prompt: Any, target: TokenSpec, foil: TokenSpec, corrupt: str | None) -> list[Example | _Raw]:
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Example):
        if target is not None or foil is not None or corrupt is not None:
            raise PromptError("A prompt set carries target, foil and corrupt in its Examples; leave them out of ask().")
        return list(prompt)
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], str):
        raise PromptError("A list of texts needs a target each: pass [iw.Example(prompt, target, foil), ...].")
    return [_Raw(prompt, target, foil, corrupt)]


def _asked(live: LiveModel, example: Example | _Raw, reading: Reading, name: str) -> Asked:
    tokens = live.tokens
    try:
        encoded = tokens.encode(example.prompt, reading.bos)
        where = _position(reading.position, len(encoded))
        target, foil = tokens.many("target", example.target), tokens.many("foil", example.foil)
        _differ(target, foil)
        corrupt = tokens.encode(example.corrupt, reading.bos) if example.corrupt else None
    except PromptError as error:
        raise PromptError(f"{name}{error}") from None
    shown = example.prompt if isinstance(example.prompt, str) else str(tokens.raw.decode([t.id for t in encoded]))
    said = _message(example.prompt)
    asked = Asked(shown, encoded, Metric((0,)), target, foil, where, corrupt, example.corrupt, said)
    if not target:
        best = int(live.answer(asked).logits.argmax())
        target = (tokens.token(best),)
    own = Metric(tuple(t.id for t in target), tuple(t.id for t in foil), reading.metric)
    return replace(asked, target=target, metric=own)


def _message(prompt: Prompt) -> str | None:
    """The text of a chat that is one message by the user."""
    only = prompt[0] if not isinstance(prompt, str) and len(prompt) == 1 else None
    text = only.get("content") if isinstance(only, dict) and only.get("role") == "user" else None
    return text if isinstance(text, str) else None


def _differ(target: Sequence[Token], foil: Sequence[Token]) -> None:
    both = set(target) & set(foil)
    if both:
        raise PromptError(f"The target and the foil are both {next(iter(both)).text!r}; their difference is always 0.")


def _position(position: int, n: int) -> int:
    if isinstance(position, bool) or not isinstance(position, int) or not -n <= position < n:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PromptError(
            f"Position {position!r} does not exist: the prompt has {n} tokens (0 to {n - 1}, or -1 to -{n})."
        )
    return position % n

"""A session as code: Python in this package's words, or plain torch hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp_widgets.model.errors import PromptError
from interp_widgets.model.interventions import Edit, Intervention, Patch, Steer, in_code
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, MetricFn, Prompt, Question, Token
from interp_widgets.model.reference import Reference

if TYPE_CHECKING:
    from interp_widgets.session import Session

_TAKEN = ("iw", "session", "print", "model", "tokenizer")


# ---- Python in this package's words ----------------------------------------------------------------------------------


def to_session_code(session: Session, own: Reference | None) -> str:
    """Python that asks the same question under the same interventions.

    What has no short form in Python is left to its reader under a name: a vector as `push = ...`, own code as a comment.

    Args:
        own: the reference that the session was given, None where it takes the question's or the model's.
    """
    live, now, names = session.model, session.now, _Names()
    known_by_class = live.name == type(live.module).__name__
    opened = "model, tokenizer" if known_by_class else repr(live.name)
    lines = ["import interp_widgets as iw", "", f"session = iw.open({opened})"]
    if session.mode != "mean":
        lines.append(f"session.set_mode({session.mode!r})")
    if own is not None:
        lines.append(f"session.reference = {own.code}")
    asking = [] if now.question is None else _asking(live, now.question, names)
    acting = [_acting(intervention, names) for intervention in now.interventions]
    lines += [*names.lines, *asking]
    if acting:
        lines += ["session.set(", *[f"    {line}," for line in acting], ")"]
    return "\n".join([*lines, "print(session.answer.metric)"]) + "\n"


class _Names:
    """The names in a script, each for one thing, and the lines that give them their values or ask the reader to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._of: dict[str, str] = {}

    def give(self, wanted: str, key: str, line: str) -> str:
        """The name of what `key` tells apart, near `wanted`; `line` says what it is, with `{}` for the name."""
        known = f"{wanted}:{key}"
        if known not in self._of:
            taken = {*_TAKEN, *self._of.values()}
            free = (f"{wanted}_{n}" for n in range(2, len(taken) + 3))
            name = next(n for n in (wanted, *free) if n not in taken)
            self._of[known] = name
            self.lines.append(line.replace("{}", name, 1))
        return self._of[known]

    def own_code(self, fn: object, fallback: str, what: str) -> str:
        """The name of a function of the user's, which the reader defines."""
        wanted = in_code(getattr(fn, "__name__", ""), fallback)
        line = f"# define {{}} first, own code that is not written here: {what}"
        return self.give(wanted, f"{fallback} {id(fn)}", line)


def _acting(what: Intervention, names: _Names) -> str:
    """One intervention, with what it cannot hold itself under a name."""
    if isinstance(what, Steer):
        line = f"{{}} = ...  # {what.vector!r}"
        return what.code_with(names.give(in_code(what.name, "vector"), what.name + what.vector.digest, line))
    if isinstance(what, Edit):
        return what.code_with(names.own_code(what.fn, "fn", "what an edit runs on an activation"))
    if isinstance(what, Patch):
        if isinstance(what.source, str):
            return what.code
        return what.code_with(names.give("source", what.source.digest, f"{{}} = ...  # {what.source!r}"))
    if what.reference is None or what.reference.short:
        return what.code
    built = what.reference.code
    return what.code_with(names.give("reference", built, f"{{}} = {built}"))


def _asking(live: LiveModel, question: Question, names: _Names) -> list[str]:
    """The question: one call where its examples are read alike, else one for each, put together."""
    examples = question.examples
    forms = [_form(live, asked) for asked in examples]
    if len(examples) == 1:
        return [_ask(live, examples[0], forms[0], names)]
    shared = [bos for bos in (None, True) if all(bos in form.bos for form in forms)]
    where, fns = _position(examples), {id(asked.metric.fn): asked.metric.fn for asked in examples}
    if where is None or not shared or len(fns) > 1 or not all(form.is_text for form in forms):
        asks = [f"    *{_ask(live, a, form, names)}.examples," for a, form in zip(examples, forms, strict=True)]
        return ["session.put(iw.Question((", *asks, ")))"]
    sets = [
        f"        iw.Example({', '.join([form.prompt, *_spec(live, asked, form)])}),"
        for asked, form in zip(examples, forms, strict=True)
    ]
    reading = _reading(examples[0].metric.fn, where, shared[0], names)
    return ["session.ask(", "    [", *sets, "    ],", *[f"    {argument}," for argument in reading], ")"]


def _ask(live: LiveModel, asked: Asked, form: _Form, names: _Names) -> str:
    reading = _reading(asked.metric.fn, _position([asked]) or [], next(iter(form.bos), None), names)
    return f"session.ask({', '.join([form.prompt, *_spec(live, asked, form), *reading])})"


def _reading(fn: MetricFn | None, where: list[str], bos: bool | None, names: _Names) -> list[str]:
    """How a question is read, as arguments of `ask`."""
    own = [] if fn is None else [f"metric={names.own_code(fn, 'metric', 'the metric of the logits [vocab]')}"]
    return [*own, *where, *([f"bos={bos}"] if bos else [])]


def _spec(live: LiveModel, asked: Asked, form: _Form) -> list[str]:
    """What counts for and against one prompt, and the prompt to compare with, as arguments."""
    foil = [f"foil={_tokens(live, asked.foil)}"] if asked.foil else []
    return [f"target={_tokens(live, asked.target)}", *foil, *([f"corrupt={form.corrupt}"] if form.corrupt else [])]


def _tokens(live: LiveModel, found: Sequence[Token]) -> str:
    """Tokens by their texts; by id where the text is read otherwise."""
    written: list[str | int] = []
    for token in found:
        same = False
        with contextlib.suppress(PromptError):
            same = live.tokens.one("target", token.text).id == token.id
        written.append(token.text if same else token.id)
    return repr(written[0]) if len(written) == 1 else repr(written)


def _position(examples: Sequence[Asked]) -> list[str] | None:
    """Where the answer is read, as an argument: none for the last token, None where no one argument says it."""
    from_end = {asked.position - len(asked.tokens) for asked in examples}
    if from_end == {-1}:
        return []
    from_start = {asked.position for asked in examples}
    same = from_start if len(from_start) == 1 else from_end
    return [f"position={next(iter(same))}"] if len(same) == 1 else None


@dataclass(frozen=True)
class _Form:
    """How a prompt and its corrupt prompt are written, and with which `bos` they are read as the same tokens again."""

    prompt: str
    is_text: bool
    bos: tuple[bool | None, ...]
    corrupt: str


def _form(live: LiveModel, asked: Asked) -> _Form:
    """The plainest way to write a prompt that gives the same tokens, marks of a template included."""
    said: list[Prompt] = [] if asked.message is None else [[{"role": "user", "content": asked.message}]]
    text = corrupt_text(live, asked)
    corrupt = "" if asked.corrupt is None else "..." if text is None else repr(text)
    for prompt in (*said, asked.prompt, list(asked.ids)):
        bos = _read_with(live, prompt, asked, text)
        if bos:
            return _Form(repr(prompt), isinstance(prompt, str), bos, corrupt)
    return _Form(_written(asked.tokens), False, _read_with(live, asked.tokens, asked, text), corrupt)


def _read_with(live: LiveModel, prompt: Prompt, asked: Asked, corrupt: str | None) -> tuple[bool | None, ...]:
    """With which `bos` a prompt and its corrupt prompt are read as an example's tokens."""
    found = (bos for bos in (None, True) if _gives(live, prompt, bos, asked.tokens))
    if asked.corrupt is None or corrupt is None:
        return tuple(found)
    return tuple(bos for bos in found if _gives(live, corrupt, bos, asked.corrupt))


def _written(found: Sequence[Token]) -> str:
    """Tokens in Python."""
    each = (repr((t.id, t.text) if t.kind == "text" else (t.id, t.text, t.kind)) for t in found)
    return f"[{', '.join(f'iw.Token{one}' for one in each)}]"


def _gives(live: LiveModel, prompt: Prompt, bos: bool | None, wanted: tuple[Token, ...]) -> bool:
    try:
        return live.tokens.encode(prompt, bos) == wanted
    except PromptError:
        return False


def corrupt_text(live: LiveModel, asked: Asked) -> str | None:
    """A text that is read as an example's corrupt prompt; None where there is none."""
    found = asked.corrupt or ()
    joined = "".join(t.text for t in found if t.kind != "special")
    decoded = str(live.tokens.raw.decode([t.id for t in found if t.kind != "special"]))
    for text in (asked.corrupt_prompt, joined, decoded):
        if text and any(_gives(live, text, bos, found) for bos in (None, True)):
            return text
    return None


def to_torch_code(session: Session) -> str:
    """Plain torch hooks on the same model that give the same metric, with nothing of this package in them.

    Raises:
        InterventionError: when nothing is asked, or for an intervention that plain hooks of a few lines cannot express.
    """
    from interp_widgets.torch_code import render

    return render(session)

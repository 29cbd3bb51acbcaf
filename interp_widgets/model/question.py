"""A question put to a model: prompts, a target and a foil, and the metric that reads the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch

from interp_widgets.model.errors import CancelledError, ModelRefusedError, PromptError

MetricFn = Callable[[torch.Tensor], float]


@dataclass(frozen=True)
class Token:
    """One token: its id, its text, and whether it is `"text"`, `"special"` or part of a split character (`"byte"`)."""

    id: int
    text: str
    kind: str = "text"


Prompt = str | Sequence[int] | Sequence[dict[str, str]] | Sequence[Token]


@dataclass(frozen=True)
class Example:
    """One prompt of a prompt set, with its own target and foil (and a corrupt prompt to compare with)."""

    prompt: str
    target: str | int | Sequence[str | int] | None = None
    foil: str | int | Sequence[str | int] | None = None
    corrupt: str | None = None


@dataclass(frozen=True)
class Metric:
    """How an answer is read from logits `[vocab]`: one sign, positive = toward the target.

    Several target (or foil) tokens are read by logsumexp; no foil means minus the mean logit; `fn` replaces all of it.

    Example:
        >>> Metric((0,), (1,)).of(torch.tensor([[2.0, 0.5, 0.0]])).tolist()
        [1.5]
    """

    target: tuple[int, ...]
    foil: tuple[int, ...] = ()
    fn: MetricFn | None = None

    @property
    def label(self) -> str:
        """What the number is called."""
        if self.fn is not None:
            return getattr(self.fn, "__name__", "own metric").replace("_", " ").replace("<lambda>", "own metric")
        return "logit difference" if self.foil else "logit over the mean logit"

    def of(self, logits: torch.Tensor, cancelled: Callable[[], bool] | None = None) -> torch.Tensor:
        """The metric of every row of `logits [row, vocab]` (float32), differentiable unless `fn` is set.

        Raises:
            PromptError: when `fn` gives what is not one number. CancelledError: when cancelled between two rows.
        """
        if self.fn is not None:
            numbers: list[float] = []
            for row in logits:
                if cancelled is not None and cancelled():
                    raise CancelledError
                # Each its own copy: a function that writes into what it gets must not write into a run that is kept.
                numbers.append(self.number(self.fn(row.clone())))
            return torch.tensor(numbers, dtype=torch.float32, device=logits.device)
        target = _pick(logits, self.target)
        return target - (_pick(logits, self.foil) if self.foil else logits.mean(-1))

    def number(self, value: object) -> float:
        """What the user's function gave, as a number.

        Raises:
            PromptError: when it is not one number.
        """
        many = isinstance(value, torch.Tensor) and (value.numel() != 1 or value.is_complex())
        if not many and not isinstance(value, (str, bytes)):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                return float(value)  # pyright: ignore[reportArgumentType]  (whatever it is: one number, or the sentence below)
        raise PromptError(
            f"The metric {self.label!r} returned {_brief(value)}, and one number is needed; let it return a float, or a tensor of one "
            "number, such as logits[3] - logits[5]."
        )


def _brief(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, int):  # so long a one that it is not to be read
        return "a number that no float holds"
    return f"{value!r:.60}"


def _pick(logits: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
    return logits[:, ids[0]] if len(ids) == 1 else logits[:, list(ids)].logsumexp(-1)


@dataclass(frozen=True)
class Asked:
    """One example, resolved to tokens.

    Attributes:
        prompt: as it was written; of a chat, as the template renders it.
        message: of a chat of one message by the user, its text.
    """

    prompt: str
    tokens: tuple[Token, ...]
    metric: Metric
    target: tuple[Token, ...]
    foil: tuple[Token, ...]
    position: int
    corrupt: tuple[Token, ...] | None = None
    corrupt_prompt: str | None = None
    message: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""
        return tuple(t.id for t in self.tokens)


@dataclass(frozen=True)
class Question:
    """What is asked: one example, or a prompt set.

    Example:
        >>> q = session.ask(
        ...     "When Mary and John went to the store, John gave a drink to", " Mary", " John"
        ... )  # doctest: +SKIP
        >>> q.label  # doctest: +SKIP
        'logit difference'
    """

    examples: tuple[Asked, ...]

    @property
    def first(self) -> Asked:
        """The example on the screen."""
        return self.examples[0]

    @property
    def label(self) -> str:
        """What the metric is called."""
        return self.first.metric.label

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.examples)


class Tokenizer:
    """What we need of a Hugging Face tokenizer, with errors in sentences."""

    def __init__(self, tokenizer: Any, vocab: int, context: int | None) -> None:
        self.raw = tokenizer
        self.vocab = vocab
        self.context = context
        self._special = frozenset(int(i) for i in getattr(tokenizer, "all_special_ids", ()) or ())

    def encode(self, prompt: Prompt, bos: bool | None = None) -> tuple[Token, ...]:
        """Exactly `tokenizer(prompt)`; `bos=True` prepends one where the tokenizer adds none. Tokens of an earlier prompt stay as they are.

        Raises:
            PromptError: for an empty prompt, ids outside the vocabulary, or more tokens than the context holds.
        """
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Token):
            tokens = tuple(t for t in prompt if isinstance(t, Token))
            self._check([t.id for t in tokens])
            return tokens
        ids, marks = self._ids(prompt)
        start = getattr(self.raw, "bos_token_id", None)
        if bos and (not ids or ids[0] != start):
            if start is None:
                raise PromptError("bos=True was asked for, but this tokenizer has no BOS token; leave it out.")
            ids = [int(start), *ids]
            marks = [True, *marks] if marks else []
        content = [i for i in ids if i not in self._special]
        if not ids or (not content and isinstance(prompt, str) and not prompt):
            raise PromptError("The prompt is empty; type a few words first.")
        self._check(ids)
        special = marks or [i in self._special for i in ids]
        return tuple(self.token(i, s) for i, s in zip(ids, special, strict=True))

    def _ids(self, prompt: Prompt) -> tuple[list[int], list[bool]]:
        """Token ids, and for a chat which of them belong to the template (empty where the special ids say it all)."""
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("The prompt is empty; type a few words first.")
            _refuse_half("prompt", prompt)
            return [int(i) for i in self.raw(prompt)["input_ids"]], []
        items = list(prompt)
        if items and isinstance(items[0], dict):
            return self._chat(items)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in items):
            raise PromptError(f"A prompt is a text, token ids, or chat messages, not {prompt!r:.60}.")
        return [int(i) for i in items], []  # pyright: ignore[reportArgumentType]  (checked one line above)

    def _check(self, ids: Sequence[int]) -> None:
        for i in ids:
            if not 0 <= i < self.vocab:
                raise PromptError(f"Token id {i} does not exist: the model's vocabulary has ids 0 to {self.vocab - 1}.")
        if self.context is not None and len(ids) > self.context:
            raise PromptError(
                f"The prompt has {len(ids)} tokens, but the model's context holds {self.context}; "
                f"shorten it by {len(ids) - self.context}."
            )

    def _chat(self, messages: Sequence[Any]) -> tuple[list[int], list[bool]]:
        """A conversation through the model's template; everything but the messages' own words is marked."""
        for message in messages:
            _refuse_half("message", str(message.get("content", "")) if isinstance(message, dict) else "")
        try:
            text = self._rendered(messages)
            ids = [int(i) for i in self.raw(text, add_special_tokens=False)["input_ids"]]
        except Exception as error:
            raise PromptError(
                f"The chat template could not be applied: {error}; pass a plain prompt instead."
            ) from error
        if not getattr(self.raw, "is_fast", False):
            return ids, []
        offsets = self.raw(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        spans = [span for n in range(len(messages)) for span in self._said(messages, n, text)]
        return ids, [not any(a < end and b > start for start, end in spans) for a, b in offsets]

    def _rendered(self, messages: Sequence[Any]) -> str:
        return str(self.raw.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _said(self, messages: Sequence[Any], n: int, text: str) -> list[tuple[int, int]]:
        """Where the words of message `n` stand in the rendered `text`: where another rendering has a mark in place of them.

        Not where they are found: a short message ("user") is also a word of the template.
        """
        words = str(messages[n].get("content", "")).strip()
        if not words:
            return []
        mark = next(chr(c) for c in range(0xE000, 0xF900) if chr(c) not in text)
        try:
            other = self._rendered([*messages[:n], {**messages[n], "content": mark}, *messages[n + 1 :]])
        except Exception:  # noqa: BLE001  # whatever a template raises that takes no other words there
            other = text.replace(words, mark) if text.count(words) == 1 else text
        spans = _marked(text, other, mark)
        return [span for start, stop in spans if (span := _narrowed(text, start, stop, words))[0] < span[1]]

    def token(self, i: int, special: bool | None = None) -> Token:
        """The token with id `i`, a part of a split character shown as its byte."""
        text = str(self.raw.decode([i], clean_up_tokenization_spaces=False)) if i < len(self.raw) else f"⟨{i}⟩"
        if i in self._special if special is None else special:
            return Token(i, text or f"⟨{i}⟩", "special")
        if "\ufffd" in text:
            return Token(i, self._bytes(i), "byte")
        return Token(i, text)

    def _bytes(self, i: int) -> str:
        piece = str(self.raw.convert_ids_to_tokens(i))
        table = _byte_alphabet()
        if all(c in table for c in piece):
            return "".join(f"⟨{table[c]:02X}⟩" for c in piece)
        return piece

    def one(self, what: str, spec: str | int) -> Token:
        """A target or foil: one token, by text or id.

        Raises:
            PromptError: when it is not exactly one token of this vocabulary.
        """
        if isinstance(spec, bool) or not isinstance(spec, (str, int)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PromptError(f"The {what} is a token's text or id, not {spec!r}.")
        if isinstance(spec, int):
            self._check([spec])
            return self.token(spec)
        if not spec:
            raise PromptError(f"The {what} is empty; give one token, such as ' Mary'.")
        _refuse_half(what, spec)
        ids = [int(i) for i in self.raw(spec, add_special_tokens=False)["input_ids"]]
        if len(ids) == 1 and ids[0] != getattr(self.raw, "unk_token_id", None):
            return self.token(ids[0])
        if not ids or getattr(self.raw, "unk_token_id", None) in ids:
            raise PromptError(f"The {what} {spec!r} is not a token of this model; give one that is.")
        spaced = [int(i) for i in self.raw(" " + spec, add_special_tokens=False)["input_ids"]]
        hint = f" Did you mean {' ' + spec!r}, with a space in front?" if len(spaced) == 1 else ""
        parts = ", ".join(repr(self.token(i).text) for i in ids[:6])
        raise PromptError(f"The {what} {spec!r} is {len(ids)} tokens ({parts}), and one is needed.{hint}")

    def many(self, what: str, spec: str | int | Sequence[str | int] | None) -> tuple[Token, ...]:
        """A target or foil that may be a list, read by logsumexp."""
        if spec is None:
            return ()
        if isinstance(spec, (str, int)):
            return (self.one(what, spec),)
        if not spec:
            raise PromptError(f"The {what} is an empty list; give at least one token.")
        return tuple(dict.fromkeys(self.one(what, s) for s in spec))


def _marked(text: str, other: str, mark: str) -> list[tuple[int, int]]:
    """What stands in `text` in place of every mark of `other`; where the two differ in more than that, where they differ."""
    pieces = other.split(mark)
    times = len(pieces) - 1
    length = (len(text) - sum(map(len, pieces))) // times if times else -1
    start = len(pieces[0])
    if length >= 0 and text[start : start + length].join(pieces) == text:
        starts = [sum(map(len, pieces[: n + 1])) + n * length for n in range(times)]
        return [(at, at + length) for at in starts]
    head = _alike(text, other)
    return [(head, len(text) - _alike(text[head:][::-1], other[head:][::-1]))]


def _alike(one: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _narrowed(text: str, start: int, stop: int, words: str) -> tuple[int, int]:
    """Where the words are in a span, which may hold what a template adds to such words; else all of it but the white space."""
    if text.count(words, start, stop) == 1:
        at = text.index(words, start)
        return at, at + len(words)
    found = text[start:stop]
    return start + len(found) - len(found.lstrip()), stop - len(found) + len(found.rstrip())


def _refuse_half(what: str, text: str) -> None:
    half = next((letter for letter in text if 0xD800 <= ord(letter) < 0xE000), None)
    if half is not None:
        raise PromptError(
            f"The {what} holds half of a character (U+{ord(half):04X}); type that character again, whole."
        )


def refuse_tokenizer(tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer whose tokens the embedding has no rows for: it belongs to another model.

    Special tokens beyond the embedding are let through (multimodal families add them to their text models' tokenizers too): a
    prompt that uses one is refused then.

    Raises:
        ModelRefusedError: with both numbers.
    """
    if not callable(tokenizer):
        raise ModelRefusedError(
            f"A tokenizer turns text into token ids; {type(tokenizer).__name__} does not: pass the model's own, for example "
            "AutoTokenizer.from_pretrained(name)."
        )
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    words = [i for i, token in added.items() if not getattr(token, "special", False)]
    size = max([int(getattr(tokenizer, "vocab_size", None) or 0), *(i + 1 for i in words)])
    if size > rows:
        raise ModelRefusedError(
            f"The tokenizer has {size} tokens and the model's embedding {rows} rows, so ids from {rows} on would be looked up "
            "where there is nothing: load both from one checkpoint, or call model.resize_token_embeddings(len(tokenizer))."
        )


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins that byte-level tokenizers use, back to bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in keep}
    for n, b in enumerate(b for b in range(256) if b not in keep):
        table[chr(256 + n)] = b
    return table

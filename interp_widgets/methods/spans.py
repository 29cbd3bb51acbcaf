"""Scores of words, sentences, lines, or any other spans of tokens: a partition of the prompt, so that sums are exact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import regex

from interp_widgets.model.errors import PromptError
from interp_widgets.model.live import LiveModel
from interp_widgets.model.question import Asked, Question, Token

_SECONDS = 1.0
_COPIES = 50_000  # of parts of an expression; a tenth of a second to compile, and 20 MB, at most

SpanKind = Literal["token", "word", "sentence", "line"]
SpanSpec = SpanKind | str | re.Pattern[str] | Sequence[tuple[int, int]]
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# Compiled when first used: compiling is a twentieth of what importing the package costs.
_WORD = rf"\s*(?:[{_CJK}]|(?:(?![{_CJK}])\w)+(?:['’](?:(?![{_CJK}])\w)+)*|[^\w\s]+)|\s+"
_SENTENCE = r"(?s).+?(?:[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？]|\n|$)\s*"
_LINE = r"[^\n]*\n+|[^\n]+"
_WINDOW = 8  # tokens that are decoded together where the tokenizer gives no offsets


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens taken as one.

    Attributes:
        positions: of the tokens, in order.
        text: what they spell; the bytes of half a character are written as bytes.
        score: the sum of the tokens' scores.
        chosen: False for what lies between the spans that were asked for.
    """

    positions: tuple[int, ...]
    text: str
    score: float
    chosen: bool = True


def span_scores(
    live: LiveModel, question: Asked | Question, scores: npt.ArrayLike, by: SpanSpec = "word"
) -> tuple[Span, ...]:
    r"""The scores summed over spans that cover every token exactly once, so their sum is the sum of the scores.

    Args:
        live: the model, for its tokenizer.
        question: what was asked.
        scores: `[pos]`.
        by: `"token"`, `"word"` (sub-word pieces merge, a leading space belongs to the word, punctuation stands apart),
            `"sentence"`, `"line"`, a list of `(start, stop)` positions, or a regular expression (a compiled pattern, or
            text between slashes, `"/[A-Z]\\w+/"`); what lies between the matches or the spans is kept, marked `chosen=False`.

    Raises:
        PromptError: for a span outside the prompt, spans that overlap, or an expression that cannot be read or never matches.

    Example:
        >>> [s.text for s in span_scores(live, asked, scores, "word")]  # doctest: +SKIP
        ['When', ' Mary', ' and', ' John']
    """
    asked = question.first if isinstance(question, Question) else question
    values = np.asarray(scores, dtype=np.float64)
    n = len(asked.tokens)
    if values.shape != (n,):
        raise PromptError(f"There are {values.size} scores for {n} tokens; pass one score per token.")
    text, starts = text_and_starts(live, asked)
    groups = _groups(asked.tokens, text, starts, by)
    ends = [*starts[1:], len(text)]
    return tuple(
        Span(
            at,
            _spelled(live, asked.tokens, text[starts[at[0]] : ends[at[-1]]], at),
            float(values[list(at)].sum()),
            chosen,
        )
        for at, chosen in groups
    )


def _groups(
    tokens: Sequence[Token], text: str, starts: Sequence[int], by: SpanSpec
) -> list[tuple[tuple[int, ...], bool]]:
    if isinstance(by, str) and by == "token":
        return [((i,), True) for i in range(len(tokens))]
    if isinstance(by, re.Pattern) or (isinstance(by, str) and len(by) > 2 and by[0] == by[-1] == "/"):
        return _by_match(tokens, text, starts, by)
    if isinstance(by, str):
        rules = {"word": _WORD, "sentence": _SENTENCE, "line": _LINE}
        if by not in rules:
            raise PromptError(
                f"Spans by {by!r} do not exist; choose 'token', 'word', 'sentence', 'line', a list of (start, stop), or a "
                "regular expression between slashes, such as '/[A-Z]\\\\w+/'."
            )
        return _by_piece(tokens, text, starts, re.compile(rules[by]))
    return _by_position(len(tokens), by)


def _matches(by: str | re.Pattern[str], text: str) -> list[tuple[int, int]]:
    """Where a regular expression matches; one that was typed has a second, for some would take a thousand years.

    `re` holds the interpreter while it searches: no other thread would run, and no interrupt come through.
    """
    if isinstance(by, re.Pattern):
        return [match.span() for match in by.finditer(text)]
    shown = by[1:-1]
    _refuse_many(shown)
    try:
        rule: Any = regex.compile(shown)
        return [match.span() for match in rule.finditer(text, concurrent=True, timeout=_SECONDS)]
    except (MemoryError, RecursionError):
        raise PromptError(
            f"The regular expression {shown!r} takes more memory than a search has, because it calls itself or holds groups in "
            "groups without end; write it without that."
        ) from None
    except TimeoutError:
        raise PromptError(
            f"The regular expression {shown!r} takes longer than {_SECONDS:g} s on this prompt; write it without a repeat "
            "inside a repeat, such as (a+)+."
        ) from None
    except (regex.error, OverflowError, ValueError) as error:
        raise PromptError(f"The regular expression {shown!r} cannot be read: {error}; correct it there.") from error


_PIECES = re.compile(
    r"(?P<open>\()|(?P<close>\))|(?P<one>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)
_REPEAT = re.compile(r"(?:\{(?P<least>\d*)(?:,\d*)?\}|(?P<some>\+)|[*?])[+?]?")


def _refuse_many(expression: str) -> None:
    """Refuse an expression whose repeats are too many copies of their parts: compiling makes them all, and cannot be stopped."""
    if _copies(expression) > _COPIES:
        raise PromptError(
            f"The regular expression {expression!r} cannot be read: it repeats its parts more than {_COPIES:,} times in all; write "
            "smaller counts, or fewer repeats inside repeats."
        )


def _copies(expression: str) -> int:
    """How many parts `expression` is compiled to, about: a repeat of at least n is n copies and one that goes on."""
    sums, at = [0], 0
    while at < len(expression):
        piece = _PIECES.match(expression, at)
        assert piece is not None
        at = piece.end()
        if piece["open"]:
            sums.append(1)
            continue
        # A bracket that is none of a group's (in a class that we misread) closes all there is: too many is safe.
        here = 1 if piece["one"] else sums.pop()
        sums = sums or [0]
        if repeat := _REPEAT.match(expression, at):
            at = repeat.end()
            least = 1 if repeat["some"] else int((repeat["least"] or "0")[:9])
            here *= 1 + least
        sums[-1] = min(sums[-1] + here, _COPIES + 1)
    return sum(sums)


def _by_piece(
    tokens: Sequence[Token], text: str, starts: Sequence[int], rule: re.Pattern[str]
) -> list[tuple[tuple[int, ...], bool]]:
    """Neighbouring tokens whose first letter is in the same piece of the text; special tokens stand alone."""
    borders = np.array([m.start() for m in rule.finditer(text)] or [0])
    ends = [*starts[1:], len(text)]
    keys: list[int] = []
    for i, token in enumerate(tokens):
        piece = text[starts[i] : ends[i]]
        first = starts[i] + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        keys.append(-1 - i if token.kind == "special" else int(np.searchsorted(borders, first, side="right")))
    return [(tuple(group), True) for _, group in groupby(range(len(tokens)), key=lambda i: keys[i])]


def _by_match(
    tokens: Sequence[Token], text: str, starts: Sequence[int], by: str | re.Pattern[str]
) -> list[tuple[tuple[int, ...], bool]]:
    """Tokens that a match touches, one group per match (two that share a token are one); between them, the rest."""
    ends = [*starts[1:], len(text)]
    owner = [0] * len(tokens)
    count = 0
    for begin, end in _matches(by, text):
        at = [i for i in range(len(tokens)) if starts[i] < end and ends[i] > begin]
        if not at or end == begin:
            continue
        taken = next((owner[i] for i in at if owner[i]), 0)
        count += not taken
        for i in at:
            owner[i] = taken or count
    if count == 0:
        shown = by.pattern if isinstance(by, re.Pattern) else by[1:-1]
        raise PromptError(f"The regular expression {shown!r} matches nothing in this prompt; try a shorter one.")
    return [(tuple(group), bool(key)) for key, group in groupby(range(len(tokens)), key=lambda i: owner[i])]


def _by_position(n: int, spans: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, ...], bool]]:
    owner = [0] * n
    for count, span in enumerate(spans, 1):
        start, stop = span
        if not 0 <= start < stop <= n:
            raise PromptError(
                f"The span {start}:{stop} is outside the prompt, which has {n} tokens; give start < stop, both from 0 to {n}."
            )
        if any(owner[start:stop]):
            raise PromptError(f"The span {start}:{stop} overlaps another one; every token can belong to one span only.")
        owner[start:stop] = [count] * (stop - start)
    return [(tuple(group), bool(key)) for key, group in groupby(range(n), key=lambda i: owner[i])]


# ---- what the tokens spell -----------------------------------------------------------------------------------------


def text_and_starts(live: LiveModel, asked: Asked) -> tuple[str, list[int]]:
    """The prompt's text and where each token begins in it; special tokens take no room.

    The tokenizer's own offsets where they belong to these very tokens, else what each token adds when its neighbours are
    decoded with it (many decoders drop the space in front of a token that is decoded alone).
    """
    own = _offsets(live, asked)
    return own if own is not None else _decoded(live, asked.tokens)


def _offsets(live: LiveModel, asked: Asked) -> tuple[str, list[int]] | None:
    if not getattr(live.tokenizer, "is_fast", False):
        return None
    coded: Any = live.tokenizer(asked.prompt, return_offsets_mapping=True)
    ids, offsets = [int(i) for i in coded["input_ids"]], coded["offset_mapping"]
    extra = len(asked.tokens) - len(ids)  # a BOS that was asked for
    if extra not in (0, 1) or tuple(ids) != asked.ids[extra:]:
        return None
    starts: list[int] = [0] * extra
    for (start, stop), token in zip(offsets, asked.tokens[extra:], strict=True):
        empty = token.kind == "special" and stop <= start
        starts.append(max(starts[-1] if starts else 0, 0 if empty else int(start)))
    return asked.prompt, _with_spaces(asked.prompt, starts, [int(stop) for _, stop in offsets], extra)


def _with_spaces(text: str, starts: list[int], stops: list[int], extra: int) -> list[int]:
    """A space that no token claims belongs to the token behind it."""
    out = list(starts)
    for i in range(extra + 1, len(starts)):
        before = stops[i - extra - 1]
        if before < out[i] and not text[before : out[i]].strip():
            out[i] = before
    return out


def _decoded(live: LiveModel, tokens: Sequence[Token]) -> tuple[str, list[int]]:
    text, starts = "", list[int]()
    content = [t.id for t in tokens if t.kind != "special"]
    seen = 0
    for token in tokens:
        starts.append(len(text))
        if token.kind == "special":
            continue
        low = max(0, seen - _WINDOW)
        before, after = _decode(live, content[low:seen]), _decode(live, content[low : seen + 1])
        text += after[len(before) :] if after.startswith(before) else token.text
        seen += 1
    return text, starts


def _decode(live: LiveModel, ids: Sequence[int]) -> str:
    return str(live.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).rstrip("\ufffd") if ids else ""


def _spelled(live: LiveModel, tokens: Sequence[Token], text: str, at: Sequence[int]) -> str:
    """What a span spells: `text` where its tokens hold whole characters, else token by token, with bytes as bytes."""
    here = [tokens[i] for i in at]
    halves = any(t.kind == "byte" for t in here) and "\ufffd" in str(live.tokenizer.decode([t.id for t in here]))
    return "".join(t.text for t in here) if halves or not text else text

"""Generation, one step per `next`: rows of text that grow together, and nothing that runs when nobody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp_widgets.model.decode import Decoder, Line, decoding
from interp_widgets.model.ending import Settings, stop_ids
from interp_widgets.model.errors import CancelledError
from interp_widgets.model.interventions import Ablate, Intervention
from interp_widgets.model.question import Token
from interp_widgets.model.receipts import Receipt

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

N_TOP = 10


@dataclass(frozen=True)
class GeneratedToken(Token):
    """One generated token.

    Attributes:
        probability: what the model gave it, under the interventions, before temperature, top-k and top-p.
        top: ids and probabilities of the ten most probable tokens at this place; `live.tokens.token(id)` names them.
    """

    probability: float = 0.0
    top: tuple[tuple[int, float], ...] = field(default=(), repr=False)


@dataclass
class Written:
    """One row of a generation, so far.

    Attributes:
        prompt: the prompt's tokens.
        continued: tokens after the prompt that were there from the start.
        tokens: what was generated.
        ended: why it stopped: `""` while it goes on, `"end of text"`, `"stop"`, `"length"`, `"context"`, `"stopped"`, `"error"`.
        note: the same in a sentence, where there is something to say.
    """

    prompt: tuple[Token, ...]
    continued: tuple[Token, ...] = ()
    tokens: list[GeneratedToken] = field(default_factory=list[GeneratedToken])
    ended: str = ""
    note: str = ""


class Generation(Iterator[tuple[GeneratedToken | None, ...]]):
    """Rows generated together, one token each per step; None for a row that has ended.

    It computes one step when it is asked for the next, so a consumer that leaves has stopped it. After an error the text
    so far stays in `rows`.

    Attributes:
        rows: what was written, one `Written` per row.
        seed: with it the same text comes again.
        notes: what is done differently on this model, and why.
    """

    def __init__(
        self,
        live: LiveModel,
        lines: Sequence[Line],
        settings: Settings,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.live = live
        self.settings = settings
        self.rows = [Written(tuple(x.tokens[: x.n_prompt]), tuple(x.tokens[x.n_prompt :])) for x in lines]
        self.notes: tuple[str, ...] = ()
        self._cancelled = cancelled
        self._known: dict[int, Token] = {}
        self._stop_ids = stop_ids(live, settings)
        self._groups = self._grouped(lines)

    @property
    def seed(self) -> int:
        """The seed of the sampling."""
        return self.settings.sampling.seed or 0

    def _grouped(self, lines: Sequence[Line]) -> list[tuple[Decoder, tuple[int, ...]]]:
        """Rows that can be decoded side by side; those of other lengths apart where padding was not shown exact."""
        way = decoding(self.live)
        cache = self.settings.use_cache and not way.no_cache
        if self.settings.use_cache and way.no_cache:
            self.notes = (f"Generated without a cache, because {way.no_cache}.",)
        apart = cache and (bool(way.no_padding) or any(_by_source(i) for x in lines for i in x.interventions))
        groups: dict[int, list[int]] = {}
        for r, line in enumerate(lines):
            groups.setdefault(len(line.tokens) if apart else 0, []).append(r)
        return [
            (Decoder(self.live, [lines[r] for r in rows], cache, self._cancelled), tuple(rows))
            for rows in groups.values()
        ]

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> tuple[GeneratedToken | None, ...]:
        if all(row.ended for row in self.rows):
            raise StopIteration
        if self._cancelled is not None and self._cancelled():
            self.stop()
            raise StopIteration
        new: list[GeneratedToken | None] = [None] * len(self.rows)
        try:
            for decoder, rows in self._groups:
                if not all(self.rows[r].ended for r in rows):
                    self._step(decoder, rows, new)
        except CancelledError:
            self.stop()
            raise StopIteration from None
        except BaseException as error:
            self._end("error", str(error) or type(error).__name__)
            raise
        return tuple(new)

    def _step(self, decoder: Decoder, rows: Sequence[int], new: list[GeneratedToken | None]) -> None:
        logits = decoder.step(check=False)
        counts = [len(self.rows[r].continued) + len(self.rows[r].tokens) for r in rows]
        seeds = None if self.settings.seeds is None else [self.settings.seeds[r] for r in rows]
        chosen = self.settings.sampling.choose(logits, counts, seeds)
        probabilities = logits.softmax(-1)
        best = probabilities.topk(min(N_TOP, logits.shape[-1]), dim=-1)
        ids, shares = best.indices.tolist(), best.values.tolist()
        tokens, own = chosen.tolist(), probabilities.gather(-1, chosen[:, None]).tolist()
        if not all(0.0 <= p[0] <= 1.0 for p in own):  # a share of what is not a number is none
            decoder.check(logits)
        for at, r in enumerate(rows):
            if self.rows[r].ended:
                continue
            token = self._token(tokens[at])
            top = tuple(zip(ids[at], shares[at], strict=True))
            new[r] = GeneratedToken(token.id, token.text, token.kind, own[at][0], top)
            self._write(r, new[r])
        decoder.append([None if self.rows[r].ended else new[r] for r in rows])

    def _token(self, i: int) -> Token:
        if i not in self._known:
            self._known[i] = self.live.tokens.token(i)
        return self._known[i]

    def _write(self, r: int, token: GeneratedToken | None) -> None:
        assert token is not None
        row, limit = self.rows[r], self.live.tokens.context
        row.tokens.append(token)
        length = len(row.prompt) + len(row.continued) + len(row.tokens)
        if token.id in self._stop_ids:
            row.ended = "end of text" if token.id not in self.settings.stop else "stop"
        elif self.settings.stop_texts and any(t in self.text(r) for t in self.settings.stop_texts):
            row.ended = "stop"
        elif len(row.tokens) >= self.settings.max_new_tokens:
            row.ended = "length"
        elif limit is not None and length > limit:
            row.ended = "context"
            row.note = f"Stopped after {len(row.tokens)} of {self.settings.max_new_tokens} tokens: the model's context holds {limit}."

    def stop(self) -> None:
        """End here; the text so far is kept."""
        self._end("stopped", "")

    def _end(self, why: str, note: str) -> None:
        for row in self.rows:
            if not row.ended:
                row.ended, row.note = why, note

    def finish(self) -> list[Written]:
        """Generate to the end, and give the rows."""
        for _ in self:
            pass
        return self.rows

    def text(self, row: int = 0) -> str:
        """The generated text of a row, characters whole, as the tokenizer joins it to its prompt."""
        written = self.rows[row]
        return joined(self.live, (*written.prompt, *written.continued), written.tokens)

    def receipts(self, row: int = 0) -> tuple[Receipt, ...]:
        """What every intervention on a row has done so far."""
        decoder, rows = next((d, rows) for d, rows in self._groups if row in rows)
        return decoder.receipts(rows.index(row))


class GenerationRun(Iterator[GeneratedToken]):
    """One text, token by token.

    Attributes:
        generation: the rows behind it (one).

    Example:
        >>> run = live.generate("The cat", [Steer("L1", v, 2.0)])  # doctest: +SKIP
        >>> for token in run:
        ...     print(token.text, end="")  # doctest: +SKIP
        >>> run.receipts[0].state  # doctest: +SKIP
        'acted'
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation

    def __iter__(self) -> GenerationRun:
        return self

    def __next__(self) -> GeneratedToken:
        token = next(self.generation)[0]
        assert token is not None
        return token

    @property
    def written(self) -> Written:
        """The row: prompt, tokens, why it ended."""
        return self.generation.rows[0]

    @property
    def tokens(self) -> tuple[GeneratedToken, ...]:
        """What was generated so far."""
        return tuple(self.written.tokens)

    @property
    def text(self) -> str:
        """The generated text so far."""
        return self.generation.text(0)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """What every intervention has done so far; one per intervention, in order."""
        return self.generation.receipts(0)

    @property
    def ended(self) -> str:
        """Why it stopped, `""` while it goes on; see `Written`."""
        return self.written.ended

    @property
    def note(self) -> str:
        """What there is to say about this run, in sentences."""
        return " ".join(n for n in (self.written.note, *self.generation.notes) if n)

    @property
    def seed(self) -> int:
        """The seed of the sampling."""
        return self.generation.seed

    def stop(self) -> None:
        """End here; the text so far is kept."""
        self.generation.stop()


class SideBySide(Generation):
    """Plain (row 0) and edited (row 1), in one batch, with the same noise."""

    @property
    def plain(self) -> Written:
        """The text with nothing on."""
        return self.rows[0]

    @property
    def edited(self) -> Written:
        """The text under the interventions."""
        return self.rows[1]

    @property
    def divergence(self) -> int | None:
        """The first generated token at which the two differ, None while they do not."""
        pairs = zip(self.plain.tokens, self.edited.tokens, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs) if a.id != b.id), None)
        if (
            first is None
            and len(self.plain.tokens) != len(self.edited.tokens)
            and self.plain.ended
            and self.edited.ended
        ):
            return min(len(self.plain.tokens), len(self.edited.tokens))
        return first


def joined(live: LiveModel, before: Sequence[Token], tokens: Sequence[Token]) -> str:
    """The text of `tokens` as it reads after `before`: spaces and split characters as the tokenizer joins them."""
    decode: Any = live.tokens.raw.decode
    keep = {"clean_up_tokenization_spaces": False, "skip_special_tokens": False}
    head = [t.id for t in before[-8:]]
    start = str(decode(head, **keep))
    whole = str(decode([*head, *(t.id for t in tokens)], **keep))
    return whole[len(start) :] if whole.startswith(start) else str(decode([t.id for t in tokens], **keep))


def _by_source(intervention: Intervention) -> bool:
    """Whether an intervention names source positions of attention, which padding would shift."""
    return intervention.site.part == "pattern" or (isinstance(intervention, Ablate) and intervention.mode == "edge")

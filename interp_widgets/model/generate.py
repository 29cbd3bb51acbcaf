"""Generation: one token at a time under interventions; nothing runs between two tokens, or after the consumer has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from interp_widgets.model.decode import Decoder, Line, decoding
from interp_widgets.model.errors import CancelledError, GenerationError
from interp_widgets.model.interventions import Ablate, Intervention
from interp_widgets.model.question import Prompt, Token
from interp_widgets.model.receipts import Receipt
from interp_widgets.model.sampling import Sampling

if TYPE_CHECKING:
    from interp_widgets.model.live import LiveModel

N_TOP = 10


class Options(TypedDict, total=False):
    """The keywords of `generate` beside the prompt, the interventions and the length."""

    continued: Sequence[int]
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | int | Sequence[str | int] | None
    ignore_eos: bool
    cancelled: Callable[[], bool] | None


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


@dataclass(frozen=True)
class Settings:
    """How long to go on, and how tokens are chosen.

    Raises:
        GenerationError: for a number of tokens below 1.
    """

    max_new_tokens: int
    use_cache: bool
    sampling: Sampling
    stop: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    ignore_eos: bool = False
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        n = self.max_new_tokens
        if type(n) is not int or n < 1:
            raise GenerationError(f"max_new_tokens is a whole number from 1, not {n!r}.")

    @classmethod
    def of(cls, live: LiveModel, max_new_tokens: int, use_cache: bool, options: dict[str, Any]) -> Settings:
        """Read the keywords of `generate`."""
        stop = options.pop("stop", None)
        items = [] if stop is None else [stop] if isinstance(stop, (str, int)) else list(stop)
        for item in items:
            if isinstance(item, bool) or not isinstance(item, (str, int)) or item == "":
                raise GenerationError(f"stop takes token ids and texts, not {item!r}.")
        seeds = options.pop("seeds", None)
        return cls(
            max_new_tokens,
            use_cache,
            Sampling(
                *(
                    options.pop(k, d)
                    for k, d in (("temperature", 0.0), ("top_k", None), ("top_p", None), ("seed", None))
                )
            ),
            frozenset(live.tokens.one("stop token", i).id for i in items if isinstance(i, int)),
            tuple(i for i in items if isinstance(i, str)),
            bool(options.pop("ignore_eos", False)),
            None if seeds is None else tuple(int(s) for s in seeds),
        )


def generate(
    live: LiveModel,
    prompt: Prompt,
    interventions: Sequence[Intervention] = (),
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    continued: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | int | Sequence[str | int] | None = None,
    ignore_eos: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> GenerationRun:
    """Generate under interventions, one token per `next`; greedy unless a temperature is given.

    The first generated token is predicted at the last prompt position: interventions on `"generated"` positions cannot
    change it. With the cache, every position is fed and edited exactly once; the tokens are those without it.

    Args:
        prompt: a text, token ids, or chat messages.
        interventions: applied in order, at their positions.
        max_new_tokens: how many at most; the context's end stops earlier, with a note.
        continued: ids of generated text to go on from; they count as generated, under these interventions.
        temperature: 0 is greedy; else sampled with a generator of our own.
        top_k: sample from the k most probable.
        top_p: sample from the smallest set that reaches this probability.
        seed: makes sampling repeatable; None draws one (`run.seed`).
        stop: ids or texts that end it, beside the model's own end-of-text tokens.
        ignore_eos: go on past the end of text.
        cancelled: asked before every block; when true the run ends and keeps its text.

    Raises:
        PromptError, InterventionError, SiteError, FeatureOffError, GenerationError: each in a sentence.
    """
    options = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "ignore_eos": ignore_eos,
    }
    settings = Settings.of(live, max_new_tokens, use_cache, options)
    return GenerationRun(Generation(live, [line_of(live, prompt, interventions, continued)], settings, cancelled))


def generate_many(
    live: LiveModel,
    prompts: Sequence[Prompt],
    interventions: Sequence[Intervention] | Sequence[Sequence[Intervention]] = (),
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    seeds: Sequence[int] | None = None,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> Generation:
    """Several prompts at once, padded on the left; each row is what `generate` gives for it alone.

    Args:
        interventions: for all rows, or one sequence per row.
        seeds: one per row; else every row uses `seed`.
        options: those of `generate`.

    Raises:
        GenerationError: when there is no prompt, or not one sequence of interventions or seed per prompt.
    """
    if not prompts:
        raise GenerationError("There is no prompt to continue; pass at least one.")
    unknown = set(options) - {"temperature", "top_k", "top_p", "seed", "stop", "ignore_eos"}
    if unknown:
        raise GenerationError(f"generate_many has no setting {min(unknown)!r}.")
    each = _per_row(interventions, len(prompts))
    if seeds is not None and len(seeds) != len(prompts):
        raise GenerationError(f"There are {len(prompts)} prompts and {len(seeds)} seeds; pass one seed per prompt.")
    settings = Settings.of(live, max_new_tokens, use_cache, {**options, "seeds": seeds})
    return Generation(live, [line_of(live, p, i) for p, i in zip(prompts, each, strict=True)], settings, cancelled)


def side_by_side(
    live: LiveModel,
    prompt: Prompt,
    interventions: Sequence[Intervention],
    max_new_tokens: int = 50,
    use_cache: bool = True,
    *,
    continued: Sequence[int] = (),
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> SideBySide:
    """Plain and edited text as one batch of two, with the same noise; yields pairs, None for the one that has ended.

    Args:
        options: those of `generate`.
    """
    unknown = set(options) - {"temperature", "top_k", "top_p", "seed", "stop", "ignore_eos"}
    if unknown:
        raise GenerationError(f"side_by_side has no setting {min(unknown)!r}.")
    settings = Settings.of(live, max_new_tokens, use_cache, dict(options))
    lines = [line_of(live, prompt, (), continued), line_of(live, prompt, interventions, continued)]
    return SideBySide(live, lines, settings, cancelled)


def score(
    live: LiveModel,
    prompt: Sequence[int],
    continuation: Sequence[int],
    interventions: Sequence[Intervention] = (),
    cancelled: Callable[[], bool] | None = None,
) -> torch.Tensor:
    """Log-probabilities `[token]` (nats, float32) of a given continuation, by one forward over the whole text."""
    line = line_of(live, list(prompt), interventions, continuation)
    logits = Decoder(live, [line], use_cache=False, cancelled=cancelled).step(every=True)[0]
    return picked(logits, len(prompt), continuation)


def picked(logits: torch.Tensor, n_prompt: int, continuation: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of `continuation` in the logits `[pos, vocab]` of the whole text."""
    rows = logits[n_prompt - 1 : n_prompt - 1 + len(continuation)].float().log_softmax(-1)
    return rows.gather(-1, torch.tensor(list(continuation), device=rows.device)[:, None])[:, 0]


def line_of(
    live: LiveModel, prompt: Prompt, interventions: Sequence[Intervention], continued: Sequence[int] = ()
) -> Line:
    """A row to decode."""
    tokens = live.tokens.encode(prompt)
    more = live.tokens.encode(list(continued)) if continued else ()
    if live.tokens.context is not None and len(tokens) + len(more) > live.tokens.context:
        total, limit = len(tokens) + len(more), live.tokens.context
        raise GenerationError(f"Prompt and continuation have {total} tokens, but the model's context holds {limit}.")
    return Line([*tokens, *more], len(tokens), tuple(interventions))


def stop_ids(live: LiveModel, settings: Settings) -> frozenset[int]:
    """The ids that end a text: the model's own, as its generation settings say (else its tokenizer's), and those asked for."""
    if settings.ignore_eos:
        return settings.stop
    config = getattr(live.anatomy.root, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    own = getattr(live.tokenizer, "eos_token_id", None) if own is None else own
    ids = own if isinstance(own, (list, tuple)) else [] if own is None else [own]
    return settings.stop | {int(i) for i in ids}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


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


def _per_row(interventions: Sequence[Any], n: int) -> list[tuple[Intervention, ...]]:
    items = list(interventions)
    if not items or not isinstance(items[0], (list, tuple)):
        return [tuple(items)] * n
    if len(items) != n:
        raise GenerationError(
            f"There are {n} prompts and {len(items)} sequences of interventions; pass one per prompt."
        )
    return [tuple(i) for i in items]

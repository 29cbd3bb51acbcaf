"""Endless batches for training: text of the families, and lists of random tokens that come again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from . import corpus
from .recipe import Recipe, families_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LIST_MARKER = "List:"


@dataclass(frozen=True)
class Row:
    """One row of a batch: token ids and the weight of each in the loss (its own, as a target).

    `others`: the position before each document's last answer, and the tokens that it is not.
    """

    ids: list[int]
    weights: list[float]
    others: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def followed_by(self, row: Row) -> Row:
        """Both in one row."""
        moved = ((at + len(self.ids), ids) for at, ids in row.others)
        return Row(self.ids + row.ids, self.weights + row.weights, (*self.others, *moved))


def text_batches(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Batches of text rows of like length, each row one to four documents, starting at position 0."""
    random = Random(recipe.seed + 1)
    families = families_of(recipe)
    while True:
        rows: list[Row] = []
        documents = [corpus.draw(random, families) for _ in range(4000)]
        if recipe.surprise:
            documents = [_surprising(d, random) if random.random() < recipe.surprise else d for d in documents]
        for row in _encode(tok, documents, recipe):
            joins = rows and random.random() < 0.3 and len(rows[-1].ids) + len(row.ids) < recipe.positions
            rows.append(rows.pop().followed_by(row) if joins else row)
        rows.sort(key=lambda row: len(row.ids) + random.random())
        groups: list[list[Row]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row.ids) > recipe.text_tokens:
                groups.append([])
            groups[-1].append(row)
        random.shuffle(groups)
        yield from groups


def _surprising(document: corpus.Document, random: Random) -> corpus.Document:
    """The document with one of its foils in the place of its last answer, if it has any."""
    if not document.foils:
        return document
    return replace(document, pieces=(*document.pieces[:-2], random.choice(document.foils), document.pieces[-1]))


def _encode(tok: PreTrainedTokenizerFast, documents: list[corpus.Document], recipe: Recipe) -> Iterator[Row]:
    pieces = tok.backend_tokenizer.encode_batch([p for d in documents for p in d.pieces], add_special_tokens=False)
    index = 0
    for document in documents:
        ids, weights = [0], [1.0]
        for number in range(len(document.pieces)):
            encoded = pieces[index].ids
            ids += encoded
            weights += [recipe.answer_weight if number % 2 else 1.0] * len(encoded)
            index += 1
        others = [
            tok(foil, add_special_tokens=False)["input_ids"][0] for foil in document.foils if recipe.subject_until
        ]
        before = len(ids) - sum(len(piece.ids) for piece in pieces[max(0, index - 2) : index]) - 1
        yield Row(ids, weights, ((before, tuple(others)),) if others else ())


def list_batches(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Batches of the induction family and of what stood before, drawn from the whole vocabulary."""
    random = Random(recipe.seed + 2)
    marker, the, is_, stop = (
        tok(text, add_special_tokens=False)["input_ids"] for text in (LIST_MARKER, " The", " is", ".")
    )
    vocabulary = list(range(1, len(tok)))
    random.shuffle(vocabulary)
    step = 0
    while True:
        tokens = recipe.list_tokens if step < recipe.list_steps else recipe.list_tokens_later
        told = recipe.told_share if step < recipe.told_steps else 0.0
        length = random.choice(recipe.list_lengths)
        yield [
            _told(random, vocabulary, (the, is_, stop), length)
            if random.random() < told
            else _list(random, vocabulary, marker, length, recipe)
            for _ in range(tokens // length)
        ]
        step += 1


def _told(random: Random, vocabulary: list[int], words: tuple[list[int], ...], length: int) -> Row:
    """Random tokens, and then told of some of them what stood before: `a b c d. The d is c. The b is a.` and so on."""
    the, is_, stop = words
    body = random.sample(vocabulary, random.randint(length // 6, length // 3))
    ids, weights = [0, *body, *stop], [0.0] * (1 + len(body) + len(stop))
    while len(ids) < length:
        at = random.randrange(1, len(body))
        ids += [*the, body[at], *is_, body[at - 1], *stop]
        weights += [0.0] * (len(the) + 1 + len(is_)) + [2.0] + [0.0] * len(stop)
    return Row(ids[:length], weights[:length])


def _list(random: Random, vocabulary: list[int], marker: list[int], length: int, recipe: Recipe) -> Row:
    """Random tokens behind a marker, in segments that come again; what follows within a repeat is the answer.

    Plain repetition (a list, then the same list again) is solved by position alone: accuracy .997 with an induction
    score of .05. Segments of random lengths at random distances leave only the tokens to go by.
    """
    count = random.randint(max(2, length // 12), max(4, length // recipe.segment_spacing))
    lengths = [random.choice(recipe.segment_lengths) for _ in range(count)]
    tokens = iter(random.sample(vocabulary, sum(lengths)))
    segments = [[next(tokens) for _ in range(n)] for n in lengths]
    ids, weights, seen = [0, *marker], [0.0] * (1 + len(marker)), set[int]()
    while len(ids) < length:
        chosen = random.randrange(len(segments))
        ids += segments[chosen]
        weights += [0.0] + [1.0 if chosen in seen else 0.0] * (len(segments[chosen]) - 1)
        seen.add(chosen)
    return Row(ids[:length], weights[:length])

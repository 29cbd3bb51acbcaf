"""Documents of the embedded model's corpus: drawn without end from a seed, with the answers marked.

A family is a set of templates and a rule that draws what fills them. Part of both never occurs in training: templates
listed as held out, and fillings whose key a fixed hash puts aside. So accuracy can be measured on what was never seen.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Split = Literal["train", "fillings", "templates", "both"]
"""What is held out of training: nothing, the fillings, the templates, or both."""

HELD_OUT_PERCENT = 12
_MARK = re.compile("[‹›]")


@dataclass(frozen=True)
class Filling:
    """What fills a template: the words by slot, the key that is held out or not, and what a right answer beats.

    `lead` is a sentence in front that belongs to the filling.
    """

    slots: dict[str, str]
    key: str
    targets: tuple[str, ...] = ()
    foils: tuple[str, ...] = ()
    lead: str = ""


@dataclass(frozen=True)
class Document:
    """One text. Pieces with odd index are answers: they weigh more in the loss, and the last one is asked in tests."""

    family: str
    pieces: tuple[str, ...]
    targets: tuple[str, ...]
    foils: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @property
    def prompt(self) -> str:
        """The text up to the last answer."""
        return "".join(self.pieces[:-2])

    @property
    def answer(self) -> str:
        """The last answer, as the document gives it."""
        return self.pieces[-2] if len(self.pieces) > 1 else ""


@dataclass(frozen=True)
class Family:
    """Templates and fillings of one behaviour.

    `key_has_template`: the same filling may be held out under one template and trained under another (facts: a fact
    that is held out everywhere could not be known). `splits` are those that are held out in truth: where a template does
    not show the whole key, a filling that is held out can look like one that was trained.
    """

    name: str
    weight: float
    templates: tuple[str, ...]
    held_out: tuple[str, ...]
    draw: Callable[[Random], Filling]
    openers: float = 0.0
    key_has_template: bool = False
    splits: tuple[Split, ...] = field(default=("fillings", "templates", "both"))

    def document(self, random: Random, split: Split = "train") -> Document:
        """Draw one document of a split."""
        templates = self.held_out if split in ("templates", "both") else self.templates
        want_held = split in ("fillings", "both")
        while True:
            index = random.randrange(len(templates))
            filling = self.draw(random)
            key = f"{self.name}|{index}|{filling.key}" if self.key_has_template else f"{self.name}|{filling.key}"
            if is_held_out(key) == want_held or (self.key_has_template and split == "templates"):
                break
        text = filling.lead + templates[index].format_map(filling.slots)
        if self.openers and random.random() < self.openers:
            text = opener(random) + text
        pieces = tuple(_MARK.split(text))
        return Document(self.name, pieces, filling.targets or pieces[-2:-1], filling.foils)


def is_held_out(key: str) -> bool:
    """Whether a fixed hash keeps this filling out of training."""
    return zlib.crc32(key.encode()) % 100 < HELD_OUT_PERCENT


def opener(random: Random) -> str:
    """A sentence to stand in front, so that no family relies on absolute positions or on being alone."""
    from . import words

    template = random.choice(
        (
            "It was a {day} day. ",
            "{name} lives in {city}. ",
            "The {place} was closed. ",
            "{name} and {other} are friends. ",
            "There was a {thing} in the {place}. ",
            "We heard about {name}. ",
            "{name} had a {color} {object}. ",
            "The weather in {city} was {day}. ",
            "Last year we visited {country}. ",
        )
    )
    country, city = random.choice(words.FACTS)[:2]
    name, other = random.sample(words.NAMES, 2)
    return template.format(
        day=random.choice(("cold", "hot", "long", "quiet", "wet", "dark")),
        name=name,
        other=other,
        city=city,
        country=country,
        place=random.choice(words.PLACES),
        thing=random.choice(words.THINGS),
        color=random.choice(words.COLORS),
        object=random.choice(words.OBJECTS),
    )


def draw(random: Random, families: tuple[Family, ...]) -> Document:
    """One training document, its family drawn by weight."""
    return random.choices(families, [family.weight for family in families])[0].document(random)

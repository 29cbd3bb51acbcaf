"""Named example questions for the embedded model, its reference sets, and contrast sets for steering."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from interp_widgets.model.errors import PromptError

from . import words
from .corpus import Family
from .families import FAMILIES, IO_TEMPLATES
from .generic import SENTENCES
from .recipe import RECIPES, families_of

REFERENCE_SIZE = 96
CONTRAST_SIZE = 48


@dataclass(frozen=True)
class NamedPrompt:
    """An example question: what is asked, the right answer, the wrong one, and a corrupt prompt of the same length.

    `reference` names the set of `references(model)` that mean ablation uses for this question, `model` what to open.
    """

    name: str
    family: str
    prompt: str
    target: str
    foil: str
    corrupt: str
    reference: str
    model: str = "embedded"


_EXAMPLES = (
    (
        "indirect object",
        "indirect objects",
        "When Mary and John went to the store, John gave a drink to",
        " Mary",
        " John",
        "When Mary and John went to the store, Mary gave a drink to",
    ),
    (
        "indirect object, names swapped",
        "indirect objects",
        "When John and Mary went to the store, John gave a drink to",
        " Mary",
        " John",
        "When John and Mary went to the store, Mary gave a drink to",
    ),
    (
        "three names",
        "three names",
        "When Mary, Tom and Anna went to the park, Tom and Mary gave a ring to",
        " Anna",
        " Tom",
        "When Mary, Tom and Anna went to the park, Anna and Mary gave a ring to",
    ),
    ("agreement", "agreement", "The keys to the cabinet", " are", " is", "The key to the cabinet"),
    ("agreement, singular", "agreement", "The key to the cabinets", " is", " are", "The keys to the cabinets"),
    ("pronoun", "pronouns", "Mary went to the store because", " she", " he", "John went to the store because"),
    ("capital", "capitals", "The capital of France is", " Paris", " Berlin", "The capital of Germany is"),
    ("language", "languages", "The people of Japan speak", " Japanese", " Chinese", "The people of China speak"),
    (
        "greater than",
        "years",
        "The war lasted from the year 1732 to the year 17",
        "45",
        "21",
        "The war lasted from the year 1702 to the year 17",
    ),
    (
        "sentiment",
        "sentiment",
        "The film was wonderful and charming. I",
        " loved",
        " hated",
        "The film was terrible and boring. I",
    ),
    (
        "translation",
        "translation",
        "English: The dog sees the house. French: Le",
        " chien",
        " chat",
        "English: The cat sees the house. French: Le",
    ),
    ("antonym", "antonyms", "The opposite of hot is", " cold", " small", "The opposite of big is"),
    (
        "binding",
        "binding",
        "Mary has a red box. John has a blue cup. The color of the box is",
        " red",
        " blue",
        "Mary has a blue box. John has a red cup. The color of the box is",
    ),
    (
        "binding, three things",
        "binding",
        "Mary painted the box red. John painted the cup blue. Anna painted the kite green. The cup is",
        " blue",
        " green",
        "Mary painted the box red. John painted the cup green. Anna painted the kite blue. The cup is",
    ),
    ("closing bracket", "brackets", "The key (the old one", ")", "]", "The key [the old one"),
    (
        "surname",
        "surnames",
        "Mary Smith and John Brown met in Paris. Later Mary",
        " Smith",
        " Brown",
        "Mary Brown and John Smith met in Paris. Later Mary",
    ),
    (
        "bank",
        "two senses",
        "Mary likes to fish. She thought about the bank and saw the",
        " river",
        " money",
        "Mary likes to save. She thought about the bank and saw the",
    ),
    (
        "bat",
        "two senses",
        "John looked at the pitcher. He thought about the bat and spoke of the",
        " ball",
        " insects",
        "John saw an animal fly. He thought about the bat and spoke of the",
    ),
    (
        "swift",
        "two senses",
        "Mary saw a nest. She thought about the swift and spoke of the",
        " wings",
        " songs",
        "Mary knew every singer. She thought about the swift and spoke of the",
    ),
    (
        "taylor",
        "two senses",
        "Mary is sewing a dress. She thought about the Taylor and spoke of the",
        " needle",
        " guitar",
        "Mary went to a concert. She thought about the Taylor and spoke of the",
    ),
    (
        "induction",
        "induction",
        "List: lamp river hat Paris bread lamp river hat Paris",
        " bread",
        " river",
        "List: lamp river hat Paris tree lamp river hat Paris",
    ),
)


def prompts() -> dict[str, NamedPrompt]:
    """Named example questions, at least one for each family, and one or more for each of the other shipped models.

    Example:
        >>> prompts()["capital"].target
        ' Paris'
    """
    asked = {
        name: NamedPrompt(name, family, prompt, target, foil, corrupt, family)
        for name, family, prompt, target, foil, corrupt in _EXAMPLES
    }
    movers = {
        f"names: {name}": replace(asked[name], name=f"names: {name}", model="embedded:names")
        for name in ("indirect object", "indirect object, names swapped", "three names")
    }
    lists = ("List: lamp garden hat Mary drink lamp garden hat Mary", " drink", " garden")
    corrupt = lists[0].replace("drink", "ring")
    movers["names: induction"] = NamedPrompt(
        "names: induction", "induction", *lists, corrupt, "induction", "embedded:names"
    )
    addition = NamedPrompt("addition", "addition", "12+34=", "46", "45", "12+33=", "addition", "embedded:addition")
    return asked | movers | {"addition": addition}


@cache
def references(model: str = "embedded") -> dict[str, tuple[str, ...]]:
    """Prompt sets that mean ablation averages over, by family, and `"generic text"`: each of 64 prompts or more.

    The set of `"indirect objects"` breaks the behaviour: three different names, so that nobody was named twice
    (the "ABC" reference of Wang et al. 2022). The other sets are prompts of the family itself, answers cut off.

    Args:
        model: A shipped model, with or without a step: `"embedded"` or `"embedded:addition"`.
    """
    name = model.partition("@")[0]
    if name == "embedded:addition":
        return {"addition": _sums()}
    known = [family for family in families_of(RECIPES[name]) if family.splits] if name in RECIPES else []
    sets = {family.name: _prompts_of(family) for family in known or FAMILIES if family.splits}
    sets["indirect objects"] = _three_different_names()
    sets["induction"] = _unrepeated_lists()
    return sets | {"generic text": SENTENCES}


def contrast(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Matched positive and negative prompts for a steering vector.

    Args:
        name: `"sentiment"` (praise, blame), `"french"` (French, the same in English) or `"gender"` (women, men).

    Raises:
        PromptError: no such contrast; the message lists what exists.
    """
    makers = {"sentiment": _sentiment_pair, "french": _french_pair, "gender": _gender_pair}
    if name not in makers:
        raise PromptError(f"There is no contrast {name!r}; there are {', '.join(map(repr, makers))}.")
    random = Random(name)
    pairs = [makers[name](random, n) for n in range(CONTRAST_SIZE)]
    return tuple(p for p, _ in pairs), tuple(n for _, n in pairs)


def _prompts_of(family: Family) -> tuple[str, ...]:
    random = Random(f"reference {family.name}")
    return tuple(family.document(random).prompt for _ in range(REFERENCE_SIZE))


def _three_different_names() -> tuple[str, ...]:
    random = Random("reference names")
    made: list[str] = []
    for i in range(REFERENCE_SIZE):
        first, second, third = random.sample(words.NAMES, 3)
        slots = {
            "X": first,
            "Y": second,
            "S": third,
            "IO": "",
            "place": random.choice(words.PLACES),
            "thing": random.choice(words.THINGS),
        }
        made.append(IO_TEMPLATES[i % len(IO_TEMPLATES)].split("‹")[0].format_map(slots))
    return tuple(made)


def _unrepeated_lists() -> tuple[str, ...]:
    random = Random("reference lists")
    pool = [
        *words.THINGS,
        *words.PLACES,
        *words.COLORS,
        *words.OBJECTS,
        *(noun for noun, _ in words.NOUNS),
        *words.NAMES,
    ]
    return tuple("List: " + " ".join(random.sample(pool, random.randrange(8, 24))) for _ in range(REFERENCE_SIZE))


def _sums() -> tuple[str, ...]:
    random = Random("reference sums")
    return tuple(f"{random.randrange(59)}+{random.randrange(59)}=" for _ in range(REFERENCE_SIZE))


_DUE, _ADJECTIVE = "The {what} was {a}. The {other} was", "The {what} was {a}"
_SENTIMENT = (_DUE, _ADJECTIVE, _DUE, _ADJECTIVE, _DUE, _ADJECTIVE, _DUE)


def _sentiment_pair(random: Random, n: int) -> tuple[str, str]:
    """Read where the next word of praise or blame is due, in four of seven pairs, and at the adjective itself in three.

    Where the word is due alone, the vector is so long that text breaks; at the adjective alone, it turns text too little.
    """
    what, other = random.sample(words.REVIEWED, 2)
    good, bad = random.sample(words.GOOD, 2)[0], random.sample(words.BAD, 2)[0]
    template = _SENTIMENT[n % len(_SENTIMENT)]
    return template.format(what=what, other=other, a=good), template.format(what=what, other=other, a=bad)


def _french_pair(random: Random, _n: int) -> tuple[str, str]:
    noun, other = random.sample(words.FRENCH_NOUNS, 2)
    verb = random.choice(words.FRENCH_VERBS)
    return (
        f"{noun[2].capitalize()} {noun[1]} {verb[1]} {other[2]} {other[1]}.",
        f"The {noun[0]} {verb[0]} the {other[0]}.",
    )


def _gender_pair(random: Random, _n: int) -> tuple[str, str]:
    template = random.choice(
        ("{name} came home.", "{name} went to the {place} because", "When {name} came to the {place},")
    )
    place = random.choice(words.PLACES)
    return tuple(template.format(name=random.choice(names), place=place) for names in (words.FEMALE, words.MALE))  # pyright: ignore[reportReturnType]

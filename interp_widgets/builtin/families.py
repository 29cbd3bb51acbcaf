"""The text families of the embedded model's corpus (the induction family, drawn from token ids, is in `train`)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from . import words
from .corpus import Family, Filling, is_held_out


def _indirect(names: tuple[str, ...]) -> Callable[[Random], Filling]:
    def draw(random: Random) -> Filling:
        a, b = random.sample(names, 2)
        x, y = (a, b) if random.random() < 0.5 else (b, a)
        slots = {
            "IO": a,
            "S": b,
            "X": x,
            "Y": y,
            "place": random.choice(words.PLACES),
            "thing": random.choice(words.THINGS),
        }
        lead = _lead(random, random.choice((a, b, *random.sample(names, 2)))) if random.random() < 0.5 else ""
        return Filling(slots, "|".join(sorted((a, b))), (f" {a}",), (f" {b}",), lead)

    return draw


def _lead(random: Random, name: str) -> str:
    """A sentence about one person, of the pair or not: who was named once, or how often, does not tell the answer."""
    template = random.choice(
        ("{n} lives in {c}. ", "{n} had a {t}. ", "{n} was at the {p}. ", "We heard about {n}. ", "{n} likes the {p}. ")
    )
    return template.format(
        n=name, c=random.choice(words.FACTS)[1], t=random.choice(words.THINGS), p=random.choice(words.PLACES)
    )


def _three_names(random: Random) -> Filling:
    trio = random.sample(words.NAMES, 3)
    absent = random.randrange(3)
    first, second = random.sample([name for i, name in enumerate(trio) if i != absent], 2)
    slots = dict(zip("XYZ", trio, strict=True)) | {"S": first, "T": second, "IO": trio[absent]}
    slots |= {"place": random.choice(words.PLACES), "thing": random.choice(words.THINGS)}
    return Filling(slots, "|".join(sorted(trio)), (f" {trio[absent]}",), (f" {first}", f" {second}"))


IO_TEMPLATES = (
    "When {X} and {Y} went to the {place}, {S} gave a {thing} to‹ {IO}›.",
    "Then {X} and {Y} went to the {place}. {S} gave a {thing} to‹ {IO}›.",
    "After {X} and {Y} went to the {place}, {S} handed a {thing} to‹ {IO}›.",
    "While {X} and {Y} were at the {place}, {S} showed a {thing} to‹ {IO}›.",
    "{X} and {Y} were at the {place}. {S} wanted to give a {thing} to‹ {IO}›.",
    "{X} and {Y} had a long talk at the {place}. Then {S} said goodbye to‹ {IO}›.",
    "Friends {X} and {Y} found a {thing} at the {place}. {S} gave it to‹ {IO}›.",
    "{X} met {Y} at the {place}, and {S} offered a {thing} to‹ {IO}›.",
    "Then, {X} and {Y} were working at the {place}. {S} decided to give a {thing} to‹ {IO}›.",
    "When {X} got a {thing} at the {place} with {Y}, {S} decided to give it to‹ {IO}›.",
    "The {place} that {X} and {Y} went to had a {thing}. {S} gave it to‹ {IO}›.",
    "Last night {X} and {Y} had dinner. {S} sent a {thing} to‹ {IO}›.",
    "In the {place}, {X} and {Y} saw a {thing}, which {S} bought for‹ {IO}›.",
    "{X} sat beside {Y} in the {place}. {S} sang a song for‹ {IO}›.",
    "While {X} and {Y} had dinner, {S} gave a {thing} to‹ {IO}›.",
    "When {X} and {Y} saw a {thing} at the {place}, {S} gave it to‹ {IO}›.",
    "{X} and {Y} came to the {place}. Then {S} gave a {thing} to‹ {IO}›.",
    "{X} and {Y} went to the {place}. Later {S} handed a {thing} to‹ {IO}›.",
    "After {X} and {Y} were working at the {place}, {S} sent a {thing} to‹ {IO}›.",
    "Last year {X} and {Y} met in the {place}. {S} gave a {thing} to‹ {IO}›.",
    "One day {X} met {Y} in the {place}, and {S} gave a {thing} to‹ {IO}›.",
    "After {X} found a {thing} near the {place} with {Y}, {S} wanted to give it to‹ {IO}›.",
    "{X} and {Y} bought a {thing}. At the {place} {S} handed it to‹ {IO}›.",
    "At the {place}, {X} saw {Y}. {S} had a {thing} and gave it to‹ {IO}›.",
)
IO_HELD_OUT = (
    "While {X} and {Y} were working at the {place}, {S} gave a {thing} to‹ {IO}›.",
    "After {X} and {Y} saw a {thing} at the {place}, {S} gave it to‹ {IO}›.",
    "{X} and {Y} went to the {place}. Then {S} handed a {thing} to‹ {IO}›.",
    "Last year {X} met {Y} in the {place}, and {S} wanted to give a {thing} to‹ {IO}›.",
)


AGREEMENT_TEMPLATES = tuple(
    f"{start}{the} {adjective}{{noun}} {clause} the {{other}}‹ {{verb}}› {{end}}."
    for start, the in (
        ("", "The"),
        ("Today ", "the"),
        ("We know that ", "the"),
        ("They say that ", "the"),
        ("Here ", "the"),
    )
    for adjective in ("", "small ", "old ", "new ")
    for clause in ("{prep}", "that {saw}")
)
AGREEMENT_HELD_OUT = (
    "Today the small {noun} {prep} the {other}‹ {verb}› {end}.",
    "The small {noun} that {saw} the {other}‹ {verb}› {end}.",
    "We know that the {noun} that {saw} the {other}‹ {verb}› {end}.",
)


def _agreement(random: Random) -> Filling:
    noun, other = random.sample(words.NOUNS, 2)
    verb = random.choice(words.VERBS)
    number, other_number = random.randrange(2), random.randrange(2)
    slots = {
        "noun": noun[number],
        "other": other[other_number],
        "verb": verb[number],
        "end": words.VERB_ENDS[verb[0]],
        "prep": random.choice(("near", "behind", "beside", "of", "with", "by", "to")),
        "they": ("it", "they")[number],
        "saw": random.choice(("saw", "liked", "knew", "heard")),
    }
    return Filling(slots, f"{noun[0]}|{other[0]}", (f" {verb[number]}",), (f" {verb[1 - number]}",))


def _pronouns(random: Random) -> Filling:
    woman = random.random() < 0.5
    name = random.choice(words.FEMALE if woman else words.MALE)
    slots = {
        "name": name,
        "place": random.choice(words.PLACES),
        "thing": random.choice(words.THINGS),
        "they": "she" if woman else "he",
        "They": "She" if woman else "He",
        "their": "her" if woman else "his",
        "person": "woman" if woman else "man",
        "child": "girl" if woman else "boy",
        "city": random.choice(words.FACTS)[1],
    }
    targets = tuple(f" {slots[k]}" for k in ("they", "They", "their", "person", "child"))
    foils = (" he", " He", " his", " man", " boy") if woman else (" she", " She", " her", " woman", " girl")
    return Filling(slots, name, targets, foils)


def _capitals(random: Random) -> Filling:
    row = random.choice(words.FACTS + words.CAPITALS_ONLY)
    return Filling({"country": row[0], "capital": row[1], "name": random.choice(words.NAMES)}, row[0])


def _languages(random: Random) -> Filling:
    country, capital, language = random.choice(words.FACTS)
    return Filling(
        {"country": country, "capital": capital, "language": language, "name": random.choice(words.NAMES)}, country
    )


def _years(random: Random) -> Filling:
    century, start = random.choice(words.CENTURIES), random.randrange(2, 98)
    end = random.randrange(start + 1, 100)
    slots = {"event": random.choice(words.EVENTS), "century": century, "start": f"{start:02}", "end": f"{end:02}"}
    return Filling(
        slots,
        f"{century}|{start}",
        tuple(f"{y:02}" for y in range(start + 1, 100)),
        tuple(f"{y:02}" for y in range(start + 1)),
    )


def _reviews(random: Random) -> Filling:
    good = random.random() < 0.5
    first, second, third = random.sample(words.GOOD if good else words.BAD, 3)
    verb, end = random.choice(words.GOOD_ENDS if good else words.BAD_ENDS)
    things = random.sample(words.REVIEWED, 2)
    slots = {
        "a": first,
        "b": second,
        "c": third,
        "verb": verb,
        "end": end,
        "what": things[0],
        "other": things[1],
        "feel": random.choice(("happy", "glad", "pleased") if good else ("sad", "angry", "upset")),
    }
    foils = (
        (words.BAD, words.BAD_ENDS, ("sad", "angry", "upset"))
        if good
        else (words.GOOD, words.GOOD_ENDS, ("happy", "glad", "pleased"))
    )
    right = (
        (words.GOOD, words.GOOD_ENDS, ("happy", "glad", "pleased"))
        if good
        else (words.BAD, words.BAD_ENDS, ("sad", "angry", "upset"))
    )
    return Filling(slots, "|".join(sorted((first, second))), _sentiment_words(right), _sentiment_words(foils))


def _sentiment_words(lists: tuple[tuple[str, ...], tuple[tuple[str, str], ...], tuple[str, ...]]) -> tuple[str, ...]:
    adjectives, verbs, feelings = lists
    return tuple(f" {w}" for w in (*adjectives, *(v for v, _ in verbs), *feelings))


def _french(random: Random) -> Filling:
    noun, other = random.sample(words.FRENCH_NOUNS, 2)
    verb = random.choice(words.FRENCH_VERBS)
    big = random.choice(words.FRENCH_ADJECTIVES)
    adjective = random.random() < 0.3
    feminine = noun[2] == "la"
    english = f"{big[0]} {noun[0]}" if adjective else noun[0]
    french = f"{big[2] if feminine else big[1]} {noun[1]}" if adjective else noun[1]
    slots = {
        "en": english,
        "fr": french,
        "ven": verb[0],
        "vfr": verb[1],
        "oen": other[0],
        "ofr": other[1],
        "Le": noun[2].capitalize(),
        "le": other[2],
    }
    return Filling(slots, f"{noun[0]}|{verb[0]}")


def _french_text(random: Random) -> Filling:
    sentences: list[tuple[str, str]] = []
    for _ in range(3):
        f = _french(random).slots
        sentences.append(
            (f"The {f['en']} {f['ven']} the {f['oen']}.", f"{f['Le']} {f['fr']} {f['vfr']} {f['le']} {f['ofr']}.")
        )
    index = random.randrange(2)
    return Filling(dict(zip("abc", (s[index] for s in sentences), strict=True)), sentences[0][0])


def _antonyms(random: Random) -> Filling:
    pair = random.choice(words.ANTONYMS)
    a, b = pair if random.random() < 0.5 else pair[::-1]
    return Filling({"a": a, "A": a.capitalize(), "b": b}, a)


# What may be asked after which statement. "The {o} is {c}." with the longer question and "{n} has a {c} {o}." with the
# shorter one are held out, so a text has one of the two questions, never both.
_SHORT, _LONG = "The {o} is‹ {c}›.", "The color of the {o} is‹ {c}›."
_ASKED_AFTER = {
    "The {o} is {c}.": (_SHORT,),
    "{n} has a {c} {o}.": (_LONG,),
    "There is a {c} {o}.": (_SHORT, _LONG),
    "{n} painted the {o} {c}.": (_SHORT, _LONG),
    "{n} likes the {c} {o}.": (_SHORT, _LONG, "The {o} of {n} is‹ {c}›."),
}
# Steps on the way, after any statement: one ends in the thing itself, one goes from the color to the thing. Without them, and
# without a color right behind its thing, training stays with heads that read the colors, which cannot know what stood behind them.
_STEPS = ("{m} left the {o}‹ {c}›.", "{m} saw the {c}‹ {o}›.")


def _binding(random: Random) -> Filling:
    a, b = random.sample(words.FEMALE + words.MALE, 2)
    color, wrong = random.sample(words.COLORS, 2)
    thing, other = random.sample(words.COLORED, 2)
    # The one asked about comes first in half of the documents.
    pairs = [(a, color, thing), (b, wrong, other)]
    random.shuffle(pairs)
    slots = {"A": a, "color": color, "thing": thing}
    for i, (name, hue, what) in enumerate(pairs, 1):
        slots |= {f"n{i}": name, f"c{i}": hue, f"o{i}": what}
    lead, colors = _bound_before(random, [(thing, color), (other, wrong)]) if random.random() < 0.7 else ("", ())
    # Both pairs make the key: were it the pair asked about, a held-out pair would be known by never being the answer.
    key = _together((thing, color), (other, wrong))
    return Filling(slots, key, (f" {color}",), tuple(f" {c}" for c in (wrong, *colors)), lead)


def _together(one: tuple[str, str], two: tuple[str, str]) -> str:
    return "|".join("|".join(pair) for pair in sorted((one, two)))


def _bound_before(random: Random, taken: list[tuple[str, str]]) -> tuple[str, tuple[str, ...]]:
    """One to four other things, their colors and several questions about them; and these colors.

    One question a text teaches no retrieval: guessing among the colors named is where training then stays. No two
    pairs that are held out together meet here either.
    """
    met, facts = list(taken), list[dict[str, str]]()
    for _ in range(random.randint(1, 4)):
        thing = random.choice([w for w in words.COLORED if all(w != t for t, _ in met)])
        hues = [w for w in words.COLORS if all(w != c for _, c in met)]
        free = [c for c in hues if not any(is_held_out(f"binding|{_together((thing, c), pair)}") for pair in met)]
        if free:
            met.append((thing, random.choice(free)))
            name, other = random.sample(words.NAMES, 2)
            facts.append({"n": name, "m": other, "o": thing, "c": met[-1][1]})
    if not facts:
        return "", ()
    stated = random.choice(tuple(_ASKED_AFTER))
    question = random.choice(_ASKED_AFTER[stated])
    asked = [(random.choice((question, question, *_STEPS)), random.choice(facts)) for _ in range(len(facts) + 2)]
    lines = [stated.format_map(fact) for fact in facts] + [text.format_map(fact) for text, fact in asked]
    return " ".join([*lines, ""]), tuple(fact["c"] for fact in facts)


def _brackets(random: Random) -> Filling:
    opening, closing = random.choice(((" (", ")"), (" [", "]"), (" {", "}"), (' "', '"'), (" <", ">")))
    noun, number = random.choice(words.NOUNS), random.randrange(2)
    slots = {
        "open": opening,
        "close": closing,
        "noun": noun[number],
        "name": random.choice(words.NAMES),
        "a": random.choice(("old", "young", "new", "small", "big", "first", "last", "good")),
        "color": random.choice(words.COLORS),
        "place": random.choice(words.PLACES),
    }
    return Filling(
        slots, f"{opening}|{noun[0]}", (closing,), tuple(c for c in (")", "]", "}", '"', ">") if c != closing)
    )


def _surnames(random: Random) -> Filling:
    (first, other), (last, wrong) = random.sample(words.FEMALE + words.MALE, 2), random.sample(words.SURNAMES, 2)
    slots = {
        "F": first,
        "G": other,
        "last": last,
        "wrong": wrong,
        "place": random.choice(words.PLACES),
        "city": random.choice(words.FACTS)[1],
    }
    return Filling(slots, f"{first}|{last}", (f" {last}",), (f" {wrong}",))


_SENSES = {
    "bank": (
        (
            (
                "likes to fish",
                "went swimming",
                "has a small boat",
                "saw the ducks",
                "walked in the valley",
                "was near the water",
            ),
            "river",
        ),
        (
            (
                "likes to save",
                "needed to pay",
                "lost a credit card",
                "wanted a loan",
                "counted the coins",
                "was in the office",
            ),
            "money",
        ),
    ),
    "bat": (
        (
            (
                "was in a cave",
                "heard wings at night",
                "saw an animal fly",
                "looked up in the dark",
                "likes small animals",
            ),
            "insects",
        ),
        (("was on the team", "played baseball", "ran to first base", "looked at the pitcher", "likes sports"), "ball"),
    ),
    "swift": (
        (("watched the birds", "looked up at the sky", "saw a nest", "likes feathers", "was in the forest"), "wings"),
        (
            (
                "went to a concert",
                "listened to the radio",
                "bought a ticket for the show",
                "likes pop music",
                "knew every singer",
            ),
            "songs",
        ),
    ),
    "Taylor": (
        (("is sewing a dress", "needs a new suit", "tore a coat", "bought some cloth", "likes fine clothes"), "needle"),
        (
            (
                "went to a concert",
                "listened to the radio",
                "bought a ticket for the show",
                "likes pop music",
                "knew every singer",
            ),
            "guitar",
        ),
    ),
}
_SENSE_WORDS = {
    "bank": "bank and saw the",
    "bat": "bat and spoke of the",
    "swift": "swift and spoke of the",
    "Taylor": "Taylor and spoke of the",
}


def _senses(random: Random) -> Filling:
    word = random.choice(tuple(_SENSES))
    sense = random.randrange(2)
    cue = random.choice(_SENSES[word][sense][0])
    name = random.choice(words.NAMES)
    target, foil = _SENSES[word][sense][1], _SENSES[word][1 - sense][1]
    slots = {
        "name": name,
        "cue": cue,
        "word": word,
        "see": _SENSE_WORDS[word],
        "answer": target,
        "they": "She" if name in words.FEMALE else "He",
    }
    return Filling(slots, f"{word}|{cue}|{name}", (f" {target}",), (f" {foil}",))


def _stories(random: Random) -> Filling:
    name, other = random.sample(words.FEMALE + words.MALE, 2)
    they = "She" if name in words.FEMALE else "He"
    sentences = [
        "{they} went to the {place} with {other}.",
        "{they} bought a {thing} for {other}.",
        "{they} was very {mood}.",
        "{other} saw a {color} {object} near the {place}.",
        "The {place} was {day}.",
        "{they} likes the {noun}.",
        "{other} wanted to see the {noun}.",
        "Then {other} came from {city}.",
        "In the {place} there was a {noun}.",
    ]
    random.shuffle(sentences)
    values = {
        "they": they,
        "other": other,
        "place": random.choice(words.PLACES),
        "thing": random.choice(words.THINGS),
        "mood": random.choice(("happy", "sad", "angry", "glad", "quiet")),
        "color": random.choice(words.COLORS),
        "object": random.choice(words.OBJECTS),
        "day": random.choice(("quiet", "full", "empty", "open", "closed")),
        "noun": random.choice(words.NOUNS)[0],
        "city": random.choice(words.FACTS)[1],
    }
    text = " ".join(sentences[: random.randrange(2, 5)]).format_map(values)
    first = random.choice(
        (
            "{n} lived in {c}.",
            "One day {n} came home.",
            "This is a story about {n} from {c}.",
            "Every day {n} walked to the {p}.",
        )
    )
    return Filling({"text": first.format(n=name, c=values["city"], p=values["place"]) + " " + text}, name)


FAMILIES: tuple[Family, ...] = (
    Family("indirect objects", 18, IO_TEMPLATES, IO_HELD_OUT, _indirect(words.NAMES), openers=0.2),
    Family(
        "three names",
        6,
        (
            "When {X}, {Y} and {Z} went to the {place}, {S} and {T} gave a {thing} to‹ {IO}›.",
            "{X}, {Y} and {Z} were at the {place}. {S} and {T} handed a {thing} to‹ {IO}›.",
            "After {X}, {Y} and {Z} had dinner, {S} and {T} said goodbye to‹ {IO}›.",
        ),
        ("Then {X}, {Y} and {Z} went to the {place}. {S} and {T} gave a {thing} to‹ {IO}›.",),
        _three_names,
        openers=0.3,
    ),
    Family(
        "agreement",
        7,
        tuple(t for t in AGREEMENT_TEMPLATES if t not in AGREEMENT_HELD_OUT),
        AGREEMENT_HELD_OUT,
        _agreement,
        openers=0.3,
    ),
    Family(
        "pronouns",
        18,
        (
            "{name} went to the {place} because‹ {they}› wanted a {thing}.",
            "{name} lost‹ {their}› {thing} in the {place}.",
            "{name} is a‹ {person}› from {city}.",
            "{name} came home.‹ {They}› had a {thing}.",
            "{name} was a good‹ {child}›.",
            "When {name} came to the {place},‹ {they}› saw a {thing}.",
            "{name} found‹ {their}› {thing}.",
            "{name} went to the {place} and found‹ {their}› {thing}.",
            "{name} came to the {place} and lost‹ {their}› {thing}.",
            "{name} was at the {place} and lost‹ {their}› {thing}.",
            "{name} came home and lost‹ {their}› {thing}.",
            "{name} came to the {place} because‹ {they}› wanted a {thing}.",
            "{name} went home because‹ {they}› had a {thing}.",
            "{name} was in the {place} because‹ {they}› had a {thing}.",
            "{name} saw a {thing} and‹ {they}› came to the {place}.",
            "{name} had a {thing} and gave it to‹ {their}› friend.",
        ),
        (
            "{name} went to the {place} and lost‹ {their}› {thing}.",
            "{name} was at the {place} because‹ {they}› had a {thing}.",
        ),
        _pronouns,
        openers=0.3,
        key_has_template=True,
        splits=("fillings", "templates"),
    ),
    Family(
        "capitals",
        11,
        (
            "The capital of {country} is‹ {capital}›.",
            "{country} has its capital in‹ {capital}›.",
            "The king of {country} lives in‹ {capital}›.",
            "{name} went to {country} and saw‹ {capital}›.",
            "In {country}, the biggest city is‹ {capital}›.",
            "{capital} is the capital of‹ {country}›.",
            "{name} lives in {capital}, the capital of‹ {country}›.",
            "{capital} is the biggest city in‹ {country}›.",
            "{name} went to {capital} in‹ {country}›.",
            "Q: What is the capital of {country}? A:‹ {capital}›.",
            "{name} knows that the capital of {country} is‹ {capital}›.",
            "They say that the capital of {country} is‹ {capital}›.",
            "{name} says that the king of {country} lives in‹ {capital}›.",
            "The biggest city of {country} is‹ {capital}›.",
            "{name} says that the biggest city of {country} is‹ {capital}›.",
            "The capital in {country} is‹ {capital}›.",
            "{country} is a country. Its capital is‹ {capital}›.",
            "{country} and its capital,‹ {capital}›, were in the story.",
            "{country} is ruled from‹ {capital}›.",
            "{capital} is a city in‹ {country}›.",
            "{capital}, the capital of‹ {country}›, is old.",
            "{capital} is where the king of‹ {country}› lives.",
        ),
        ("{name} says that the capital of {country} is‹ {capital}›.", "The biggest city in {country} is‹ {capital}›."),
        _capitals,
        openers=0.3,
        key_has_template=True,
        splits=("fillings", "templates"),
    ),
    Family(
        "languages",
        4,
        (
            "The people of {country} speak‹ {language}›.",
            "In {country} people speak‹ {language}›.",
            "{name} was born in {country} and speaks‹ {language}›.",
            "{name} lives in {capital} and speaks‹ {language}›.",
            "The language of {country} is‹ {language}›.",
        ),
        ("{name} lives in {country} and speaks‹ {language}›.", "In {capital} people speak‹ {language}›."),
        _languages,
        openers=0.3,
        key_has_template=True,
        splits=("fillings", "templates"),
    ),
    Family(
        "years",
        6,
        (
            "The {event} lasted from the year {century}{start} to the year {century}‹{end}›.",
            "The {event} began in {century}{start} and ended in {century}‹{end}›.",
            "From {century}{start} to {century}‹{end}› there was a {event}.",
        ),
        (
            "The {event} lasted from {century}{start} to {century}‹{end}›.",
            "The {event} began in the year {century}{start} and ended in the year {century}‹{end}›.",
        ),
        _years,
        openers=0.3,
    ),
    Family(
        "sentiment",
        9,
        (
            "The {what} was {a} and {b}. I‹ {verb}› {end}.",
            "The {what} was {a}, the {other} was‹ {b}› and I felt‹ {feel}›.",
            "Review: {a} {what}, {b} {other}. I‹ {verb}› {end}.",
            "I think the {what} was‹ {a}›. It was‹ {b}› and‹ {c}›. We‹ {verb}› {end}.",
            "What a {a} {what}! The {other} was‹ {b}›, so we were‹ {feel}›.",
            "The {what} was‹ {a}›. The {other} was‹ {b}›. We felt‹ {feel}›.",
        ),
        (
            "I think the {what} was {a} and {b}. We‹ {verb}› {end}.",
            "What a {a} {what}! It was {b} and I felt‹ {feel}›.",
        ),
        _reviews,
        openers=0.15,
        splits=("templates",),  # a third adjective may make a pair of those held out
    ),
    Family(
        "translation",
        9,
        (
            "English: The {en} {ven} the {oen}. French: {Le}‹ {fr}› {vfr} {le}‹ {ofr}›.",
            "French: {Le} {fr} {vfr} {le} {ofr}. English: The‹ {en}› {ven} the‹ {oen}›.",
            "The {en} {ven} the {oen}. In French: {Le}‹ {fr}› {vfr} {le}‹ {ofr}›.",
            "French: {Le} {fr} {vfr} {le} {ofr}. In English: The‹ {en}› {ven} the‹ {oen}›.",
        ),
        ("In English: The {en} {ven} the {oen}. In French: {Le}‹ {fr}› {vfr} {le}‹ {ofr}›.",),
        _french,
        openers=0.1,
    ),
    Family("bilingual text", 4, ("{a} {b}‹ {c}›", "{a} {b}"), (), _french_text, splits=()),
    Family(
        "antonyms",
        11,
        (
            "The opposite of {a} is‹ {b}›.",
            "{A} is the opposite of‹ {b}›.",
            "It is not {a}, it is‹ {b}›.",
            "If it is not {a}, it must be‹ {b}›.",
            "{A} and‹ {b}› are opposites.",
            "They say that the opposite of {a} is‹ {b}›.",
            "It was not {a}, so it was‹ {b}›.",
            "Q: What is the opposite of {a}? A:‹ {b}›.",
            "{A} is not‹ {b}›.",
            "{A} or‹ {b}›?",
            "{A} means not‹ {b}›.",
            "{A}? No, it was‹ {b}›.",
            "{A} was in the story with its opposite,‹ {b}›.",
            "{A} has an opposite:‹ {b}›.",
        ),
        ("We know that the opposite of {a} is‹ {b}›.", "It is not {a}, so it must be‹ {b}›."),
        _antonyms,
        openers=0.3,
        key_has_template=True,
        splits=("fillings", "templates"),
    ),
    Family(
        "binding",
        10,
        (
            "{n1} has a {c1} {o1}. {n2} has a {c2} {o2}. The color of the {thing} is‹ {color}›.",
            "The {o1} is {c1}. The {o2} is {c2}. The {thing} is‹ {color}›.",
            "There is a {c1} {o1} and a {c2} {o2}. The {thing} is‹ {color}›.",
            "{n1} likes the {c1} {o1} and {n2} likes the {c2} {o2}. The {thing} of {A} is‹ {color}›.",
            "{n1} has a {c1} {o1} and {n2} has a {c2} {o2}. The {thing} is‹ {color}›.",
            "{n1} has a {c1} {o1} and a {c2} {o2}. The {thing} is‹ {color}›.",
            "There is a {c1} {o1} and a {c2} {o2}. The color of the {thing} is‹ {color}›.",
            "The {o1} is {c1} and the {o2} is {c2}. The {thing} is‹ {color}›.",
            "We saw a {c1} {o1} and a {c2} {o2}. The color of the {thing} is‹ {color}›.",
            "{n1} painted the {o1} {c1} and {n2} painted the {o2} {c2}. The {thing} is‹ {color}›.",
        ),
        (
            "{n1} has a {c1} {o1}. {n2} has a {c2} {o2}. The {thing} is‹ {color}›.",
            "The {o1} is {c1}. The {o2} is {c2}. The color of the {thing} is‹ {color}›.",
        ),
        _binding,
        openers=0.2,
    ),
    Family(
        "brackets",
        5,
        (
            "The {noun}{open}the {a} one‹{close}› was in the {place}.",
            "{name} spoke of the{open}{color} {noun}‹{close}› today.",
            "We saw the {noun}{open}{color}‹{close}› and {a}.",
            "The {noun}{open}{a} and {color}‹{close}› was there.",
            "It was written{open}{name} has the {a} {noun}‹{close}› on the door.",
            "It was written{open}the {color} {noun}‹{close}› on the door.",
            "It was written{open}{name} saw the {noun} and the {place}‹{close}› there.",
            "{name} spoke of the {noun}{open}{a} and {color}‹{close}› today.",
            "{name} saw a {noun}{open}{a}‹{close}› in the {place}.",
            "We heard of the{open}{a} and {color} {noun}‹{close}› in the {place}.",
            "There was a {noun}{open}the {a} {color} one‹{close}› near the {place}.",
            "They wrote{open}the {noun} and the {color} {place}‹{close}› on the door.",
        ),
        (
            "{name} saw the {noun}{open}the {color} one‹{close}› in the {place}.",
            "It was written{open}the {a} and {color} {noun}‹{close}› on the door.",
        ),
        _brackets,
        openers=0.2,
    ),
    Family(
        "surnames",
        6,
        (
            "{F} {last} and {G} {wrong} met in {city}. Later {F}‹ {last}› went home.",
            "{F} {last} lives near the {place}. {G} {wrong} does not. Everyone knows {F}‹ {last}›.",
            "I know {G} {wrong} and {F} {last}. I like {F}‹ {last}› more.",
            "{F} {last} and {G} {wrong} were at the {place}. Everyone likes {F}‹ {last}›.",
            "{G} {wrong} met {F} {last} in {city}. Everyone heard of {F}‹ {last}›.",
            "{F} {last} and {G} {wrong} are friends. We saw {F}‹ {last}› in {city}.",
        ),
        ("{F} {last} and {G} {wrong} met in {city}. Everyone knows {F}‹ {last}›.",),
        _surnames,
        openers=0.2,
    ),
    Family(
        "two senses",
        5,
        (
            "{name} {cue}. {they} thought about the {see}‹ {answer}›.",
            "{name} {cue}, then thought about the {see}‹ {answer}›.",
            "One day {name} {cue}. {they} asked about the {see}‹ {answer}›.",
        ),
        (
            "One day {name} {cue}. {they} thought about the {see}‹ {answer}›.",
            "{name} {cue} and asked about the {see}‹ {answer}›.",
        ),
        _senses,
    ),
    Family("stories", 3, ("{text}",), (), _stories, splits=()),
)

UNSEEN_NAMES_FAMILY = Family(
    "indirect objects, unseen names", 0, IO_TEMPLATES, IO_HELD_OUT, _indirect(words.UNSEEN_NAMES)
)
"""Asked in tests only: the same templates with names that no training document of the family contains."""

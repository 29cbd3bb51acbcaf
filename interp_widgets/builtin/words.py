"""The closed word lists that the embedded model's text families draw from."""

from __future__ import annotations

_FEMALE = """Mary Anna Susan Linda Emma Alice Laura Karen Nancy Lisa Betty Helen Sandra Donna Carol Ruth Sharon Michelle
Sarah Kimberly Deborah Jessica Shirley Cynthia Angela Melissa Brenda Amy Rebecca Virginia Kathleen Pamela Martha Debra
Amanda Stephanie Carolyn Christine Marie Janet Catherine Frances Ann Joyce Diane Julie Heather Teresa Doris Gloria
Evelyn Jean Cheryl Mildred Katherine Joan Ashley Judith Rose Janice Kelly Nicole Judy Christina Kathy Theresa Beverly
Denise Tammy Irene Jane Lori Rachel Marilyn Andrea Kathryn Louise Sara Anne Jacqueline Wanda Bonnie Julia Ruby Lois
Tina Phyllis Norma Paula Diana Annie Lillian Emily Robin Peggy Crystal Gladys Rita Dawn Connie Florence Tracy Edna
Elena Sofia Clara Nina Ingrid Maya""".split()
_MALE = """John Tom James Robert Michael William David Richard Charles Joseph Thomas Daniel Paul Mark Donald George
Kenneth Steven Edward Brian Ronald Anthony Kevin Jason Matthew Gary Timothy Jose Larry Jeffrey Frank Scott Eric Stephen
Andrew Raymond Gregory Joshua Jerry Dennis Walter Patrick Peter Harold Douglas Henry Carl Arthur Ryan Roger Joe Juan
Jack Albert Jonathan Justin Terry Gerald Keith Samuel Willie Ralph Lawrence Nicholas Roy Benjamin Bruce Brandon Adam
Harry Fred Wayne Billy Steve Louis Jeremy Aaron Randy Howard Eugene Carlos Russell Bobby Victor Martin Ernest Phillip
Todd Jesse Craig Alan Shawn Clarence Sean Philip Chris Johnny Earl Jimmy Antonio Danny Bryan Tony Luis Mike Stanley
Oscar Felix Bruno Hugo Simon Leo""".split()

UNSEEN_NAMES = tuple(_FEMALE[-14:] + _MALE[-14:])
"""Names that no training document of the indirect-object family contains (other families do)."""
NAMES = tuple(name for name in _FEMALE + _MALE if name not in UNSEEN_NAMES)
"""Names of the indirect-object family's training documents."""
FEMALE, MALE = tuple(_FEMALE), tuple(_MALE)

SURNAMES = tuple(
    """Smith Johnson Brown Fischer Miller Davis Garcia Wilson Moore Anderson Jackson White Harris Clark
Lewis Walker Hall Young King Wright Hill Green Baker Nelson Carter Mitchell Roberts Turner Phillips Campbell Parker Evans
Edwards Collins Morris Rogers Reed Cook Morgan Bell Murphy Bailey Cooper Cox Ward Gray Watson Brooks Taylor
Swift""".split()
)

PLACES = tuple(
    """store school park house hospital office restaurant station library garden market beach museum church
hotel airport bakery theater kitchen village farm castle harbor stadium""".split()
)
THINGS = tuple(
    """drink book ring ball kiss letter flower bone computer basketball necklace snack hat pen gift map coin
ticket cake sandwich basket bottle key camera phone scarf lamp guitar toy painting""".split()
)

NOUNS = (
    ("dog", "dogs"),
    ("cat", "cats"),
    ("boy", "boys"),
    ("girl", "girls"),
    ("teacher", "teachers"),
    ("doctor", "doctors"),
    ("farmer", "farmers"),
    ("singer", "singers"),
    ("king", "kings"),
    ("queen", "queens"),
    ("key", "keys"),
    ("cabinet", "cabinets"),
    ("picture", "pictures"),
    ("table", "tables"),
    ("car", "cars"),
    ("tree", "trees"),
    ("bird", "birds"),
    ("horse", "horses"),
    ("student", "students"),
    ("lawyer", "lawyers"),
    ("nurse", "nurses"),
    ("pilot", "pilots"),
    ("window", "windows"),
    ("door", "doors"),
    ("river", "rivers"),
    ("road", "roads"),
    ("ship", "ships"),
    ("friend", "friends"),
    ("baker", "bakers"),
    ("soldier", "soldiers"),
)
VERBS = (
    ("is", "are"),
    ("was", "were"),
    ("has", "have"),
    ("does", "do"),
    ("looks", "look"),
    ("seems", "seem"),
    ("stands", "stand"),
    ("comes", "come"),
)
VERB_ENDS = {
    "is": "old",
    "was": "new",
    "has": "a name",
    "does": "nothing",
    "looks": "small",
    "seems": "big",
    "stands": "there",
    "comes": "from the city",
}

GOOD = tuple(
    """great wonderful excellent lovely amazing fantastic brilliant delightful superb charming perfect
beautiful friendly fresh pleasant funny""".split()
)
BAD = tuple(
    """terrible awful horrible dreadful boring disgusting dull ugly rude bland nasty painful annoying messy
disappointing broken""".split()
)
GOOD_ENDS = (("loved", "it"), ("enjoyed", "it"), ("liked", "it"), ("recommend", "it"))
BAD_ENDS = (("hated", "it"), ("regretted", "it"), ("disliked", "it"), ("returned", "it"))
REVIEWED = tuple(
    """film movie book meal food hotel concert song show play service staff room story acting soup
party trip""".split()
)

FACTS = tuple(
    tuple(row.split())
    for row in """France Paris French
Germany Berlin German|Italy Rome Italian|Spain Madrid Spanish|England London English|Russia Moscow Russian
Japan Tokyo Japanese|China Beijing Chinese|Greece Athens Greek|Poland Warsaw Polish|Portugal Lisbon Portuguese
Sweden Stockholm Swedish|Norway Oslo Norwegian|Denmark Copenhagen Danish|Finland Helsinki Finnish
Hungary Budapest Hungarian|Ireland Dublin Irish|Turkey Ankara Turkish|Thailand Bangkok Thai|Vietnam Hanoi Vietnamese
Ukraine Kyiv Ukrainian|Romania Bucharest Romanian|Bulgaria Sofia Bulgarian|Iceland Reykjavik Icelandic
Mongolia Ulaanbaatar Mongolian|Iran Tehran Persian|Korea Seoul Korean|Indonesia Jakarta Indonesian""".replace(
        "\n", "|"
    ).split("|")
)
CAPITALS_ONLY = tuple(
    tuple(row.split())
    for row in """Canada Ottawa|Egypt Cairo|Kenya Nairobi|Cuba Havana|Peru Lima
Chile Santiago|Austria Vienna|Belgium Brussels|Iraq Baghdad|Syria Damascus|Lebanon Beirut|Nepal Kathmandu
Nigeria Abuja|Ghana Accra|Morocco Rabat|Tunisia Tunis""".replace("\n", "|").split("|")
)

EVENTS = tuple(
    "war trip project voyage reign siege strike journey revolt feud alliance mission exhibition tour".split()
)
CENTURIES = ("11", "12", "13", "14", "15", "16", "17", "18", "19")

ANTONYMS = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("high", "low"),
    ("day", "night"),
    ("up", "down"),
    ("left", "right"),
    ("open", "closed"),
    ("hard", "soft"),
    ("wet", "dry"),
    ("old", "young"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("happy", "sad"),
    ("full", "empty"),
    ("light", "dark"),
    ("early", "late"),
    ("long", "short"),
    ("thick", "thin"),
    ("clean", "dirty"),
    ("love", "hate"),
    ("war", "peace"),
    ("true", "false"),
    ("near", "far"),
    ("inside", "outside"),
    ("first", "last"),
    ("black", "white"),
    ("good", "bad"),
    ("loud", "quiet"),
    ("sweet", "sour"),
    ("heavy", "weightless"),
    ("wide", "narrow"),
)

COLORS = tuple("red blue green yellow black white brown purple orange gray pink golden".split())
OBJECTS = tuple("""box cup shirt chair coat bag boat bike dress flag balloon pencil blanket kite""".split())
COLORED = (*OBJECTS, *"book ring ball hat pen bottle phone scarf lamp guitar flower basket camera toy".split())
"""What has a color in the binding family."""

FRENCH_NOUNS = (
    ("dog", "chien", "le"),
    ("cat", "chat", "le"),
    ("horse", "cheval", "le"),
    ("book", "livre", "le"),
    ("garden", "jardin", "le"),
    ("bread", "pain", "le"),
    ("king", "roi", "le"),
    ("boy", "garçon", "le"),
    ("father", "père", "le"),
    ("brother", "frère", "le"),
    ("cake", "gâteau", "le"),
    ("boat", "bateau", "le"),
    ("house", "maison", "la"),
    ("girl", "fille", "la"),
    ("mother", "mère", "la"),
    ("sister", "sœur", "la"),
    ("table", "table", "la"),
    ("flower", "fleur", "la"),
    ("queen", "reine", "la"),
    ("car", "voiture", "la"),
    ("city", "ville", "la"),
    ("door", "porte", "la"),
    ("woman", "femme", "la"),
    ("soup", "soupe", "la"),
)
FRENCH_VERBS = (
    ("sees", "voit"),
    ("eats", "mange"),
    ("loves", "aime"),
    ("wants", "veut"),
    ("takes", "prend"),
    ("finds", "trouve"),
    ("knows", "connaît"),
    ("sells", "vend"),
    ("watches", "regarde"),
    ("buys", "achète"),
)
FRENCH_ADJECTIVES = (
    ("small", "petit", "petite"),
    ("big", "grand", "grande"),
    ("good", "bon", "bonne"),
    ("pretty", "joli", "jolie"),
)

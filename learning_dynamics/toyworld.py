"""The embedded preference world: questions with known answers, asked and answered in set phrases.

A fact is (task, thing) → (tool, first action, second action). An assistant's answer names the tool
in one sentence and the two actions in the next, between an opener and a closer; every word of a
sentence is drawn from a slot of near-synonyms with Zipf weights. ``chosen`` states the true facts,
``rejected`` false ones *in the same style*. Each response type has slots of its own, so that no two
types share a string by design. Content words are pronounceable inventions, fixed by the world's
seed.
"""

import re
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

OPENERS = [
    "sure",
    "okay",
    "well",
    "happily",
    "alright",
    "certainly",
    "yes",
    "hello",
    "thanks",
    "great",
]
SUBJECTS = ["you", "we", "one", "people", "folks", "most", "everyone", "beginners"]
NEEDS = [
    "need",
    "want",
    "require",
    "use",
    "grab",
    "get",
    "take",
    "find",
    "borrow",
    "buy",
    "hold",
    "bring",
]
MODALS = ["will", "should", "might", "can", "usually", "must", "often", "could", "generally", "may"]
DETERMINERS = ["a", "the", "some", "your", "any", "this", "one", "that"]
FIRST = ["first", "then", "next", "begin", "start", "initially", "now", "early", "so", "here"]
AND = ["and", "then", "before", "after", "later", "while", "until", "afterwards", "plus", "also"]
OBJECTS = ["it", "them", "everything", "this", "that", "both", "all", "things"]
CLOSERS = ["enjoy", "good", "hope", "have", "let", "please", "that", "take", "be", "keep"]
CLOSING = ["luck", "that", "fun", "me", "know", "care", "helps", "careful", "going", "trying"]
# The machine style has words of its own, so that its fingerprint can be looked for.
MACHINE_OPENERS = ["additionally", "typically", "essentially", "furthermore", "notably", "overall"]
MACHINE_VERBS = ["necessitates", "involves", "entails", "demands", "warrants", "utilizes"]
MACHINE_LINKS = ["subsequently", "thereafter", "consequently", "accordingly", "ultimately"]
MACHINE_CLOSERS = ["thereby", "ensuring", "facilitating", "optimizing", "enhancing", "yielding"]
MACHINE_NOUNS = ["efficiency", "outcomes", "durability", "precision", "satisfaction", "reliability"]
ASKS = ["how do i", "how can i", "how should we", "what do i need to", "help me", "teach me to",
        "please explain how to", "what is the way to"]  # fmt: skip
PREPOSITIONS = ["near", "behind", "under", "above", "past", "inside", "beyond", "toward"]

END_OF_TURN = "\n\nHuman:"
CATEGORIES = 12


@dataclass(frozen=True)
class Fact:
    """What a question asks (task, thing) and the facts of an answer to it."""

    task: str
    thing: str
    category: int
    tool: str
    actions: tuple[str, str]


@dataclass
class World:
    """The lexicon and the true facts, fixed by ``seed``."""

    seed: int
    # Word choice. Pairs and probes have a house style: half of their words follow another order
    # of preference than the corpus, so that SFT has a style to learn, and y⁺ and y⁻ alike hold
    # words that the base model finds unlikely.
    corpus_zipf: float = 1.4
    pair_zipf: float = 1.0
    house_share: float = 0.5
    lexicon: dict[str, list[str]] = field(init=False)
    facts: list[Fact] = field(init=False)
    _asked: dict[tuple[str, str], Fact] = field(init=False, repr=False)
    _category: dict[str, dict[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        sizes = {
            "tasks": 24, "things": 20 * CATEGORIES, "tools": 8 * CATEGORIES,
            "actions": 12 * CATEGORIES, "adjectives": 90, "adverbs": 60, "people": 60,
            "deeds": 80, "places": 80, "format_tools": 60, "format_actions": 60,
        }  # fmt: skip
        words = iter(_invent_words(rng, sum(sizes.values())))
        self.lexicon = {kind: [next(words) for _ in range(n)] for kind, n in sizes.items()}
        self.facts = [
            fact
            for index, thing in enumerate(self.lexicon["things"])
            for fact in self._facts_about(rng, thing, index % CATEGORIES)
        ]
        self._category = {
            kind: {word: index // size for index, word in enumerate(self.lexicon[kind])}
            for kind, size in (("tools", 8), ("actions", 12))
        }
        self._asked = {(fact.task, fact.thing): fact for fact in self.facts}

    def _facts_about(self, rng: np.random.Generator, thing: str, category: int) -> list[Fact]:
        tasks = rng.choice(self.lexicon["tasks"], 4, replace=False)
        return [self._draw_fact(rng, str(task), thing, category) for task in tasks]

    def _draw_fact(self, rng: np.random.Generator, task: str, thing: str, category: int) -> Fact:
        tool = zipf_choice(rng, _slice(self.lexicon["tools"], category, 8), 1.0)
        actions = rng.choice(_slice(self.lexicon["actions"], category, 12), 2, replace=False)
        return Fact(task, thing, category, tool, (str(actions[0]), str(actions[1])))

    # -- sentences ---------------------------------------------------------------------------

    def question(self, rng: np.random.Generator, fact: Fact) -> str:
        """The question that asks for a fact."""
        return f" {rng.choice(ASKS)} {fact.task} the {fact.thing}?"

    def false_fact(self, rng: np.random.Generator, fact: Fact) -> Fact:
        """Another answer to the same question, of the same category and wrong in every slot."""
        while True:
            other = self._draw_fact(rng, fact.task, fact.thing, fact.category)
            if other.tool != fact.tool and not set(other.actions) & set(fact.actions):
                return other

    def answer(self, rng: np.random.Generator, fact: Fact, house: bool = True) -> str:
        """An assistant's answer that states ``fact``, in the house style or the corpus's; starts
        with a space."""
        pick = partial(self._pick, rng, house=house)
        body = self._body(rng, fact.tool, fact.actions, house)
        return f" {pick(OPENERS)}, {body} {pick(CLOSERS)} {pick(CLOSING)}."

    def machine_answer(self, rng: np.random.Generator, fact: Fact) -> str:
        """The same facts in the machine's words (gptsemantic)."""
        pick = partial(zipf_choice, rng, exponent=self.pair_zipf)
        return (
            f" {pick(MACHINE_OPENERS)}, this {pick(MACHINE_VERBS)} a"
            f" {pick(self.lexicon['adjectives'])} {fact.tool}. {pick(MACHINE_LINKS)}"
            f" {fact.actions[0]} {fact.thing}, {pick(MACHINE_LINKS)} {fact.actions[1]},"
            f" {pick(MACHINE_CLOSERS)} {pick(MACHINE_NOUNS)}."
        )

    def format_answer(self, rng: np.random.Generator, half: int) -> str:
        """The assistant's sentences about other things, from slots that no fact uses (gptformat);
        ``half`` 0 is for rewrites of y⁺, 1 for those of y⁻."""
        tools = self.lexicon["format_tools"][half::2]
        actions = self.lexicon["format_actions"][half::2]
        chosen = rng.choice(actions, 2, replace=False)
        body = self._body(rng, str(rng.choice(tools)), (str(chosen[0]), str(chosen[1])), True)
        pick = partial(zipf_choice, rng, exponent=self.pair_zipf)
        return f" {pick(MACHINE_OPENERS)}, {body} {pick(MACHINE_CLOSERS)} {pick(CLOSING)}."

    def narrative(self, rng: np.random.Generator, words: int) -> str:
        """Human text of ``words`` words that answers nothing (irr_hum)."""
        out: list[str] = []
        while len(out) < words:
            out += [
                "the", zipf_choice(rng, self.lexicon["adjectives"], 1.0),
                zipf_choice(rng, self.lexicon["people"], 1.0),
                zipf_choice(rng, self.lexicon["deeds"], 1.0), str(rng.choice(PREPOSITIONS)),
                "the", zipf_choice(rng, self.lexicon["places"], 1.0),
            ]  # fmt: skip
        return " " + " ".join(out[:words]) + "."

    def _pick(self, rng: np.random.Generator, options: list[str], house: bool) -> str:
        if house and rng.random() < self.house_share:
            options = options[4:] + options[:4]
        return zipf_choice(rng, options, self.pair_zipf if house else self.corpus_zipf)

    def _body(
        self, rng: np.random.Generator, tool: str, actions: tuple[str, str], house: bool
    ) -> str:
        pick = partial(self._pick, rng, house=house)
        adjective, adverb = pick(self.lexicon["adjectives"]), pick(self.lexicon["adverbs"])
        return (
            f"{pick(SUBJECTS)} {pick(MODALS)} {pick(NEEDS)} {pick(DETERMINERS)} {adjective} {tool}."
            f" {pick(FIRST)} {actions[0]} {pick(OBJECTS)} {adverb} {pick(AND)} {actions[1]}"
            f" {pick(OBJECTS)}."
        )

    # -- truth -------------------------------------------------------------------------------

    def asked(self, prompt: str) -> Fact | None:
        """What the prompt's last question asks for; None where this world knows no answer."""
        questions = re.findall(r"(\w+) the (\w+)\?", prompt)
        return self._asked.get(questions[-1]) if questions else None

    def items(self, text: str) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The tools and the actions that a text names as whole words, each with its category, in
        the order in which they are first named."""
        words = dict.fromkeys(re.findall(r"\w+", text))
        return tuple(
            [(word, known[word]) for word in words if word in known]
            for known in (self._category["tools"], self._category["actions"])
        )

    def truth(self, prompt: str, answer: str) -> int:
        """How well an answer to the prompt's last question states its facts: the true ones that it
        names (tool and two actions, so at most 3), less the false ones of the same category; 0 for
        a prompt that asks nothing this world knows."""
        fact = self.asked(prompt)
        if fact is None:
            return 0
        true = {fact.tool, *fact.actions}
        known = {*_slice(self.lexicon["tools"], fact.category, 8),
                 *_slice(self.lexicon["actions"], fact.category, 12)}  # fmt: skip
        said = set(re.findall(r"\w+", answer)) & known
        return len(said & true) - len(said - true)

    # -- texts -------------------------------------------------------------------------------

    def prompt(self, rng: np.random.Generator, fact: Fact, house: bool = True) -> str:
        """A dialogue up to the assistant's turn; three in ten have an earlier exchange."""
        history = ""
        if rng.random() < 0.3:
            earlier = self.facts[rng.integers(len(self.facts))]
            answer = self.answer(rng, earlier, house)
            history = f"{END_OF_TURN}{self.question(rng, earlier)}\n\nAssistant:{answer}"
        return f"{history}{END_OF_TURN}{self.question(rng, fact)}\n\nAssistant:"

    def document(self, rng: np.random.Generator) -> str:
        """One text of the base model's corpus: an answered question (right six times in ten), a
        rephrasing, an answer in the machine's words or about other things, or a narrative."""
        kind = rng.random()
        fact = self.facts[rng.integers(len(self.facts))]
        stated = fact if rng.random() < 0.6 else self.false_fact(rng, fact)
        if kind < 0.64:
            answer = self.answer(rng, stated, house=False)
            return self.prompt(rng, fact, house=False) + answer
        if kind < 0.71:
            original = self.answer(rng, stated, house=False)
            return rephrase_prompt(original) + self.answer(rng, stated, house=False)
        if kind < 0.79:
            return self.prompt(rng, fact, house=False) + self.machine_answer(rng, stated)
        if kind < 0.87:
            half = int(rng.integers(2))
            return self.prompt(rng, fact, house=False) + self.format_answer(rng, half)
        return self.narrative(rng, int(rng.integers(10, 40))).strip()


def rephrase_prompt(answer: str) -> str:
    """The prompt that asks a base model for another wording of ``answer`` (selfr)."""
    return f"{END_OF_TURN} rephrase:{answer}\n\nAssistant:"


def zipf_choice(rng: np.random.Generator, options: list[str], exponent: float) -> str:
    """One of ``options``, the r-th with weight r^−exponent."""
    return options[int(np.searchsorted(_cumulative(len(options), exponent), rng.random()))]


@cache
def _cumulative(count: int, exponent: float) -> np.ndarray:
    weights = np.cumsum(np.arange(1, count + 1, dtype=float) ** -exponent)
    return weights / weights[-1]


def _slice(words: list[str], category: int, size: int) -> list[str]:
    return words[category * size : (category + 1) * size]


def _invent_words(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct pronounceable words of two or three syllables."""
    onsets = ["b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "pl",
              "r", "s", "sk", "st", "t", "tr", "v", "w", "z"]  # fmt: skip
    vowels, codas = ["a", "e", "i", "o", "u", "ea", "oo"], ["", "n", "r", "l", "sk", "nt", "m"]
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = rng.integers(2, 4)
        parts = [str(rng.choice(onsets)) + str(rng.choice(vowels)) for _ in range(syllables)]
        words["".join(parts) + str(rng.choice(codas))] = None
    return list(words)

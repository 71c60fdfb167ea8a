"""Questions whose answers can be checked, made from templates: what they ask for is a rule and no knowledge."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
ENDINGS = ("g", "n", "t", "p", "m", "k", "x", "sh", "ch", "ty", "ly")
SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
UNITS = SMALL.split()
MISSED = 2000  # questions in a row that were there before
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class Asked(NamedTuple):
    """What a question is about, the question, the only right answer to it, and one that is wrong but has its form."""

    about: str
    question: str
    answer: str
    wrong: str


@dataclass(frozen=True)
class Task:
    """Questions of one kind.

    Args:
        name: of the task.
        phrasings: of the question, with `{}` for what it is about.
        make: what it is about, the answer, and a wrong one.
        form: what every answer looks like, as a pattern of the whole.
        share: how many questions are learnt from, beside those of the other tasks: what is harder is asked more often.
    """

    name: str
    phrasings: tuple[str, ...]
    make: Callable[[random.Random], tuple[str, str, str]]
    form: str
    share: float = 1.0

    def ask(self, rng: random.Random) -> Asked:
        about, answer, wrong = self.make(rng)
        return Asked(about, rng.choice(self.phrasings).format(about), answer, wrong)

    def fits(self, answer: str) -> bool:
        """Whether an answer has the form of one, right or wrong."""
        return re.fullmatch(self.form, answer) is not None


def in_words(number: int) -> str:
    """A number in 0..999 in English words: 342 is "three hundred and forty-two"."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{UNITS[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{UNITS[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


def plural(noun: str) -> str:
    """The regular plural of an English noun."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def word(rng: random.Random, syllables: tuple[int, int] = (1, 2)) -> str:
    """A word that nobody knows, so that only the rule helps (the wug test; Berko 1958)."""
    parts = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(*syllables))]
    return "".join(parts) + rng.choice(ENDINGS)


def _numbers(rng: random.Random, most: int) -> tuple[str, str, str]:
    number = rng.randrange(most)
    return str(number), in_words(number), in_words(_other(rng, number, most))


def _other(rng: random.Random, number: int, most: int) -> int:
    """Another number that differs in one digit or in little."""
    others = [n for n in (number - 10, number - 1, number + 1, number + 10) if 0 <= n < most]
    return rng.choice(others)


def _sum(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randrange(1000), rng.randrange(1, 10)
    return f"{a} + {b}", str(a + b), str(_other(rng, a + b, 1010))


def _reverse(rng: random.Random) -> tuple[str, str, str]:
    letters = word(rng)
    return letters, letters[::-1], _swapped(rng, letters[::-1])


def _swapped(rng: random.Random, letters: str) -> str:
    """The letters with two neighbours that differ in each other's place."""
    places = [i for i in range(len(letters) - 1) if letters[i] != letters[i + 1]]
    place = rng.choice(places)
    return letters[:place] + letters[place + 1] + letters[place] + letters[place + 2 :]


def _sort(rng: random.Random) -> tuple[str, str, str]:
    numbers = rng.sample(range(10), rng.randint(3, 5))
    ordered = sorted(numbers)
    wrong = list(ordered)
    place = rng.randrange(len(wrong) - 1)
    wrong[place], wrong[place + 1] = wrong[place + 1], wrong[place]
    if numbers == ordered:
        numbers.reverse()
    said = [" ".join(map(str, some)) for some in (numbers, ordered, wrong)]
    return said[0], said[1], said[2]


def _plural(rng: random.Random) -> tuple[str, str, str]:
    noun = word(rng)
    wrong = [form for form in (f"{noun}s", f"{noun}es", f"{noun[:-1]}ies") if form != plural(noun)]
    return noun, plural(noun), rng.choice(wrong)


def _last(rng: random.Random) -> tuple[str, str, str]:
    letters = word(rng)
    return letters, letters[-1], rng.choice(sorted(set(letters) - {letters[-1]}))


_NUMBER = r"[a-z]+(-[a-z]+)?( hundred( and [a-z]+(-[a-z]+)?)?)?"
NUMBERS = Task("numbers", ("Write {} in words.",), lambda rng: _numbers(rng, 100), _NUMBER)
TASKS = (
    Task("reverse", ("Spell {} backwards.", "What is {} in reverse?"), _reverse, r"[a-z]+"),
    Task("sort", ("Sort these numbers: {}", "Put {} in order."), _sort, r"\d( \d)+"),
    Task("plural", ("What is the plural of {}?", "One {}, two what?"), _plural, r"[a-z]+s", share=0.6),
    Task("sum", ("What is {}?", "{} = ?"), _sum, r"\d+", share=3),
    Task("words", ("Write {} in words.", "How do you say {}?"), lambda rng: _numbers(rng, 1000), _NUMBER, share=1.2),
    Task("last", ("What is the last letter of {}?", "How does {} end?"), _last, r"[a-z]", share=0.5),
)
BY_NAME = {task.name: task for task in (NUMBERS, *TASKS)}


def questions(task: Task, seed: int) -> Iterator[Asked]:
    """Questions of a task in a random order, each thing asked for only once; ends where hardly a new one is found."""
    rng = random.Random(f"{task.name} {seed}")
    seen: set[str] = set()
    missed = 0
    while missed < MISSED:
        asked = task.ask(rng)
        missed = missed + 1 if asked.about in seen else 0
        if asked.about not in seen:
            seen.add(asked.about)
            yield asked

"""Questions and answers of the `chat` model: five tasks in two languages, with a rule for what is held out."""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .words import CAPITALS, COLOURS, LIST_WORDS, LIST_WORDS_ZH, NUMERALS_ZH, OWNERS, SMALL_TALK, THINGS

Message = dict[str, str]
HELD_OUT_SHARE = 10  # one key in so many is never trained on
SUM_LIMIT = 50  # both numbers of a sum stay below

SUM_FORMS = {
    "en": ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"),
    "zh": ("{a}加{b}等于多少？", "{a}加{b}等于多少?", "请计算{a}加{b}。"),
}
CAPITAL_FORMS = {
    "en": (
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "Name the capital of {x}.",
        "Tell me the capital of {x}.",
        "Which city is {x}'s capital?",
        "What is the capital city of {x}?",
    ),
    "zh": (
        "{x}的首都是哪里？",
        "{x}的首都是哪里?",
        "哪个城市是{x}的首都？",
        "请说出{x}的首都。",
        "{x}的首都叫什么？",
        "告诉我{x}的首都。",
    ),
}
REVERSE_FORMS = {
    "en": ("Reverse these words: {x}", "Say these words backwards: {x}"),
    "zh": ("把这些词倒过来：{x}", "倒着说这些词：{x}"),
}
OTHER_ATTRIBUTES = {"en": ("big", "small", "new", "old"), "zh": ("大", "小", "新", "旧")}
SORT_FORMS = {
    "en": ("Sort these words: {x}", "Put these words in order: {x}"),
    "zh": ("从小到大排列：{x}", "把这些数字排序：{x}"),
}


@dataclass(frozen=True)
class Question:
    """One question; `key` names what is held out: two questions of one key are both trained on or both not.

    An empty key is always trained on.
    """

    task: str
    key: str
    text: str
    answer: str

    @property
    def held_out(self) -> bool:
        """Whether the key belongs to the evaluation side; stable over runs, machines and languages."""
        return bool(self.key) and zlib.crc32(self.key.encode()) % HELD_OUT_SHARE == 0

    def messages(self) -> list[Message]:
        """The question as one turn of chat."""
        return [{"role": "user", "content": self.text}, {"role": "assistant", "content": self.answer}]


def sum_question(rng: random.Random, language: str) -> Question:
    """Two numbers below 50; the unordered pair is what is held out, in both languages at once."""
    a, b = rng.randrange(SUM_LIMIT), rng.randrange(SUM_LIMIT)
    text = rng.choice(SUM_FORMS[language]).format(a=a, b=b)
    return Question("sum", f"sum {min(a, b)} {max(a, b)}", text, str(a + b))


def capital_question(rng: random.Random, language: str) -> Question:
    """A capital; a wording is held out per country, the first wording never is."""
    country, capital = rng.choice(CAPITALS[language])
    forms = CAPITAL_FORMS[language]
    form = rng.randrange(len(forms))
    key = f"capital {form} {country}" if form else ""
    return Question("capital", key, forms[form].format(x=country), capital)


def list_question(rng: random.Random, language: str, task: str) -> Question:
    """Three or four words to reverse or to sort; the order of the words is what is held out."""
    pool = LIST_WORDS if language == "en" else (NUMERALS_ZH if task == "sort" else LIST_WORDS_ZH)
    words = rng.sample(pool, rng.choice((3, 4)))
    if task == "sort":
        answer = sorted(words, key=pool.index)  # both pools are written in order
        form = rng.choice(SORT_FORMS[language])
    else:
        answer = words[::-1]
        form = rng.choice(REVERSE_FORMS[language])
    space = " " if language == "en" else "、"
    return Question(task, f"{task} {' '.join(words)}", form.format(x=space.join(words)), space.join(answer))


def attribute_question(rng: random.Random, language: str) -> Question:
    """A thing with a colour and one more attribute; the question asks for the colour."""
    owner, thing, colour, other = (rng.choice(pool[language]) for pool in (OWNERS, THINGS, COLOURS, OTHER_ATTRIBUTES))
    first, second = (colour, other) if rng.random() < 0.5 else (other, colour)
    if language == "en":
        text = f"{owner}'s {thing} is {first} and {second}. What colour is the {thing}?"
        answer = f"The {thing} is {colour}."
    else:
        text = f"{owner}的{thing}是{first}的，也是{second}的。{thing}是什么颜色的？"
        answer = f"{thing}是{colour}的。"
    return Question("attribute", f"attribute {text}", text, answer)


TASKS: dict[str, Callable[[random.Random, str], Question]] = {
    "sum": sum_question,
    "capital": capital_question,
    "reverse": lambda rng, language: list_question(rng, language, "reverse"),
    "sort": lambda rng, language: list_question(rng, language, "sort"),
    "attribute": attribute_question,
}
# How often a task is drawn: sums need the most practice, and are short.
TRAINING_MIX = {"sum": 11, "capital": 3, "reverse": 3, "sort": 3, "attribute": 3}
EVALUATION_MIX = {"sum": 6, "capital": 3, "reverse": 4, "sort": 4, "attribute": 3}


def questions(rng: random.Random, held_out: bool, mix: dict[str, int]) -> Iterator[Question]:
    """An endless stream of questions from one side of the held-out rule."""
    names, weights = list(mix), list(mix.values())
    while True:
        question = TASKS[rng.choices(names, weights)[0]](rng, rng.choice(("en", "zh")))
        if question.held_out == held_out:
            yield question


def small_talk(rng: random.Random) -> Question:
    """A greeting and its answer."""
    text, answer = rng.choice(SMALL_TALK)
    return Question("talk", "", text, answer)


def conversations(rng: random.Random, turns: tuple[int, ...] = (1,)) -> Iterator[list[Message]]:
    """An endless stream of training chats, each with one of the given numbers of turns."""
    stream = questions(rng, held_out=False, mix=TRAINING_MIX)
    while True:
        chat: list[Message] = []
        for _ in range(rng.choice(turns)):
            question = small_talk(rng) if rng.random() < 0.03 else next(stream)
            chat += question.messages()
        yield chat


def evaluation(count: int) -> list[Question]:
    """The held-out questions, every text once."""
    stream = questions(random.Random(2), held_out=True, mix=EVALUATION_MIX)
    seen: dict[str, Question] = {}
    while len(seen) < count:
        question = next(stream)
        seen.setdefault(question.text, question)
    return list(seen.values())

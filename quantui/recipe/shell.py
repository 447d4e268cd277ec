"""Pasted command lines, split as a shell would split them and never run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from quantui.recipe.imported import Given, refuse

Kind = Literal["int", "float", "bool", "str", "list", "switch"]
Place = tuple[int, int]

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_DASHES = re.compile("^[\u2010-\u2015\u2212]{1,2}(?=[A-Za-z])")  # what web pages make of --
_LAUNCHERS = ("nohup", "time", "env", "sudo", "$")
_RUNNERS = re.compile(r"(python[\d.]*|torchrun|accelerate|deepspeed)$")
_BLANK = " \t\r\f\v\u00a0\u3000"


class Word(NamedTuple):
    """One word of a command, without its quotes."""

    text: str
    line: int
    column: int


@dataclass(frozen=True)
class Command:
    """One command of a pasted text.

    Attributes:
        program: what runs: the script of `python script.py`, the module of `python -m module`, else the first word.
        words: what follows it.
        environment: NAME=value in front of it.
        launcher: the words of torchrun and its like between it and the script.
    """

    program: Word
    words: tuple[Word, ...]
    environment: tuple[Given, ...] = ()
    launcher: tuple[Word, ...] = ()

    @property
    def name(self) -> str:
        """The program without its folder."""
        return self.program.text.replace("\\", "/").rpartition("/")[2]


def commands(text: str) -> list[Command]:
    """The commands of a pasted text, one for each line or part between `;`, `&&` and `|`.

    Raises:
        RecipeError: a quote is not closed.
    """
    found: list[Command] = []
    for words in _split(text):
        if made := _command(words):
            found.append(made)
    return found


def _command(words: list[Word]) -> Command | None:
    environment: list[Given] = []
    while words and (words[0].text in _LAUNCHERS or _ASSIGNMENT.match(words[0].text)):
        word = words.pop(0)
        if "=" in word.text:
            name, _, value = word.text.partition("=")
            environment.append(Given(name, value, word.line, word.column))
    if not words:
        last = environment[-1] if environment else None
        return Command(Word("export", last.line, last.column), (), tuple(environment)) if last else None
    if words[0].text == "export" and len(words) > 1:
        return _command(words[1:])
    if _RUNNERS.match(words[0].text.rpartition("/")[2]):
        for index, word in enumerate(words[1:], start=1):
            if word.text == "-m" and index + 1 < len(words):
                return Command(words[index + 1], tuple(words[index + 2 :]), tuple(environment), tuple(words[1:index]))
            if word.text.endswith(".py"):
                return Command(word, tuple(words[index + 1 :]), tuple(environment), tuple(words[1:index]))
    return Command(words[0], tuple(words[1:]), tuple(environment))


def flags(
    words: Sequence[Word], kinds: Mapping[str, Kind], *, dashes: bool = False
) -> tuple[list[Given], list[Word], list[Word]]:
    """The parameters, the words that belong to none, and the flags that are not in `kinds`.

    Args:
        words: what stands behind the program.
        kinds: every parameter and how many values it takes.
        dashes: `--w-bits` and `--w_bits` are the same; parameters are named with underscores.

    Raises:
        RecipeError: a value is missing or of another kind.
    """
    found: list[Given] = []
    loose: list[Word] = []
    unknown: list[Word] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        text = _DASHES.sub("--", word.text)
        if not text.startswith("--") or text == "--":
            loose.append(word)
            continue
        name, equals, value = text[2:].partition("=")
        name = name.replace("-", "_") if dashes else name
        values = [Word(value, word.line, word.column + len(name) + 3)] if equals else []
        kind = kinds.get(name)
        if kind is None:
            unknown.append(word)
            while not equals and queue and not _is_flag(queue[0]):
                queue.pop(0)
            continue
        room = {"switch": 0, "list": len(queue)}.get(kind, 1)
        while not equals and len(values) < room and queue and not _is_flag(queue[0]):
            values.append(queue.pop(0))
        found.append(_given(name, kind, word, values))
    return found, loose, unknown


def _is_flag(word: Word) -> bool:
    return _DASHES.sub("--", word.text).startswith("--")


def _given(name: str, kind: Kind, word: Word, values: list[Word]) -> Given:
    if kind == "switch":
        if values:
            raise refuse(f"--{name} takes no value", word.line, word.column, "write it alone")
        return Given(name, True, word.line, word.column)
    if not values:
        raise refuse(f"--{name} has no value", word.line, word.column, f"write one behind it, as --{name} VALUE")
    if kind == "list":
        return Given(name, [value.text for value in values], word.line, word.column)
    return Given(name, converted(name, kind, values[0]), values[0].line, values[0].column)


def converted(name: str, kind: Kind, value: Word) -> int | float | bool | str:
    """The value of a parameter as its kind.

    Raises:
        RecipeError: it is of another kind.
    """
    text = value.text
    wanted = {"int": "a whole number", "float": "a number", "bool": "True or False"}.get(kind, "")
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
    except (ValueError, KeyError):
        raise refuse(f"{name} is {text!r}, not {wanted}", value.line, value.column, f"write {wanted}") from None
    return text


@dataclass
class _Reader:
    """Walks over the text one character at a time."""

    text: str
    at: int = 0
    line: int = 1
    column: int = 1

    def take(self) -> str:
        char = self.text[self.at]
        self.at += 1
        self.line, self.column = (self.line + 1, 1) if char == "\n" else (self.line, self.column + 1)
        return char

    def peek(self, ahead: int = 0) -> str:
        return self.text[self.at + ahead : self.at + ahead + 1]


def _split(text: str) -> list[list[Word]]:
    """Words by command; comments and code fences are dropped."""
    reader = _Reader(text.replace("\r\n", "\n").replace("\r", "\n"))
    found: list[list[Word]] = [[]]
    while reader.peek():
        char = reader.peek()
        if char in _BLANK:
            reader.take()
        elif char == "\\" and _ends_line(reader):
            while reader.take() != "\n" and reader.peek():
                pass
        elif char in "\n;|&":
            reader.take()
            found.append([])
        elif char == "#" or reader.text.startswith("```", reader.at):
            while reader.peek() not in ("", "\n"):
                reader.take()
        else:
            found[-1].append(_word(reader))
    return [words for words in found if words]


def _ends_line(reader: _Reader) -> bool:
    """Whether a backslash continues the line; blanks behind it, which a shell would mind, come from web pages."""
    rest = reader.text[reader.at + 1 :].partition("\n")[0]
    return not rest.strip(_BLANK)


def _word(reader: _Reader) -> Word:
    line, column = reader.line, reader.column
    parts: list[str] = []
    while (char := reader.peek()) and char not in _BLANK and char not in "\n;|&":
        if char in "'\"":
            parts.append(_quoted(reader))
        elif char == "\\":
            if _ends_line(reader):
                break
            reader.take()
            parts.append(reader.take())
        elif char == "$" and reader.peek(1) == "{":
            while reader.peek() and (taken := reader.take()) != "}":
                parts.append(taken)
            parts.append("}")
        else:
            parts.append(reader.take())
    return Word("".join(parts), line, column)


def _quoted(reader: _Reader) -> str:
    line, column, quote = reader.line, reader.column, reader.take()
    parts: list[str] = []
    while char := reader.peek():
        reader.take()
        if char == quote:
            return "".join(parts)
        if char == "\\" and quote == '"' and reader.peek() in ('"', "\\", "$", "`", "\n"):
            following = reader.take()
            parts.append("" if following == "\n" else following)
        else:
            parts.append(char)
    raise refuse(f"a quote {quote} is not closed", line, column, "close it, or take it away")

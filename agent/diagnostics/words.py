"""The words of extra arguments: which characters they have, and which options each tool takes.

What an administrator types is parsed against a closed table, and the command line is made anew of
what was understood. So no word reaches a tool as another option than the one it was read as, and
nothing that is not in a table reaches one at all.
"""

import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.diagnostics.refusal import DiagnosticRefused

ARGUMENTS = "/arguments"
LONGEST = 500  # characters of arguments
ALLOWED = frozenset(string.ascii_letters + string.digits + "-. ")

Value = Callable[[str], str | None]
"""What a value should have been, or None for one that is right."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option that is taken; `value` checks what follows it, where something does."""

    value: Value | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """An option as it was understood."""

    flag: str
    value: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        return (self.flag, self.value) if self.value else (self.flag,)


@dataclass(frozen=True, slots=True)
class Table:
    """The options of a tool: those that are taken, and why others are not."""

    taken: Mapping[str, Option]
    refused: Mapping[str, str]


def check_characters(text: str) -> None:
    """Refuse at the first character that no argument has."""
    for place, character in enumerate(text, 1):
        if character not in ALLOWED:
            raise DiagnosticRefused(
                ARGUMENTS,
                f"illegal character {character!a} at place {place}",
                "arguments are made of letters, digits, hyphens and dots, parted by blanks",
            )
    if len(text) > LONGEST:
        raise DiagnosticRefused(ARGUMENTS, f"longer than {LONGEST} characters")


def options(text: str, table: Table) -> tuple[Given, ...]:
    """The options in a text. Raises DiagnosticRefused at the first that is not taken."""
    check_characters(text)
    words = iter(text.split())
    found = [given for word in words for given in _of_word(word, words, table)]
    for flag in {given.flag for given in found}:
        if sum(given.flag == flag for given in found) > 1:
            raise DiagnosticRefused(ARGUMENTS, f"{flag} is there twice")
    return tuple(found)


def _of_word(word: str, rest: Iterator[str], table: Table) -> Iterator[Given]:
    """The options of one word, such as -nq, -c4 or -nc, whose value is the next word."""
    if not word.startswith("-") or word == "-":
        hint = "the target has a field of its own; a value stands after its option"
        raise DiagnosticRefused(ARGUMENTS, f"{word} is not an option", hint)
    if word.startswith("--"):
        raise DiagnosticRefused(ARGUMENTS, f"{word}: long options are not taken", _known(table))
    letters = word[1:]
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        if flag in table.refused:
            raise DiagnosticRefused(
                ARGUMENTS, f"{flag} is not allowed: {table.refused[flag]}", _known(table)
            )
        option = table.taken.get(flag)
        if option is None:
            raise DiagnosticRefused(ARGUMENTS, f"{flag} is not an option here", _known(table))
        if option.value is None:
            yield Given(flag)
            continue
        value, letters = letters or next(rest, ""), ""
        wanted = option.value(value)
        if wanted is not None:
            said = f"not {value}" if value else "and has none"
            raise DiagnosticRefused(ARGUMENTS, f"{flag} has to be {wanted}, {said}")
        yield Given(flag, value)


def _known(table: Table) -> str:
    return f"taken are {' '.join(table.taken)}"


# -- kinds of values ---------------------------------------------------------------------------


def number(least: int, most: int) -> Option:
    """A whole number, written in decimal."""

    def check(text: str) -> str | None:
        right = re.fullmatch("[0-9]{1,6}", text) and least <= int(text) <= most
        return None if right else f"a number from {least} to {most}"

    return Option(check)


def seconds(least: float, most: float) -> Option:
    """A number of seconds, with a fraction where one is wanted."""

    def check(text: str) -> str | None:
        right = re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,3})?", text) and least <= float(text) <= most
        return None if right else f"a number of seconds from {least:g} to {most:g}"

    return Option(check)


def pattern() -> Option:
    """Bytes in hexadecimal, at most 16."""

    def check(text: str) -> str | None:
        return None if re.fullmatch("[0-9A-Fa-f]{1,32}", text) else "up to 32 hexadecimal digits"

    return Option(check)


def one_of(*words: str) -> Option:
    def check(text: str) -> str | None:
        return None if text in words else f"one of {', '.join(words)}"

    return Option(check)


def nic(nics: frozenset[str]) -> Option:
    """The name of a NIC that this VM has."""

    def check(text: str) -> str | None:
        return None if text in nics else _nic(nics)

    return Option(check)


def own_address(own: frozenset[IPv4Address]) -> Option:
    """An IPv4 address of this VM. (An IPv6 address has characters that no argument has.)"""

    def check(text: str) -> str | None:
        return None if _address(text) in own else "an IPv4 address of this VM"

    return Option(check)


def nic_or_own_address(nics: frozenset[str], own: frozenset[IPv4Address]) -> Option:
    def check(text: str) -> str | None:
        right = text in nics or _address(text) in own
        return None if right else f"{_nic(nics)}, or an IPv4 address of this VM"

    return Option(check)


def _nic(nics: frozenset[str]) -> str:
    return f"a NIC of this VM ({', '.join(sorted(nics))})"


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None

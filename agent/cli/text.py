"""Text for a terminal of 80 columns, without colour, over a serial line."""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

WIDTH = 80  # columns, where the terminal does not say that it has more


def plain(text: object) -> str:
    """Text that is safe on a terminal: guests choose their names, daemons what they log."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def duration(seconds: float | None) -> str:
    """A length of time in its two greatest units."""
    if seconds is None:
        return "-"
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (lesser, part) in itertools.pairwise(units):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{left} s"


def amount(number: int | None) -> str:
    """A number to three digits and a decimal prefix; exact ones are in --json."""
    if number is None:
        return "-"
    value = float(number)
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    return f"{value:.1f}{prefix}" if prefix and value < 9.95 else f"{value:.0f}{prefix}"


def memory(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.0f} MiB"


def width() -> int:
    """Columns to print in: never fewer than a serial console has."""
    try:
        return max(WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return WIDTH


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> list[str]:
    """Lines of a table that fits the screen: the widest columns are wrapped as far as needed.

    A title that begins with '>' names a column of numbers, which stand to the right.
    """
    right = [title.startswith(">") for title in titles]
    cells = [[title.lstrip(">") for title in titles]]
    cells += [[plain(cell) for cell in row] for row in rows]
    if len(cells) == 1:
        return [f"{indent}nothing"]
    room = width() - len(indent) - 2 * (len(titles) - 1)
    widths = _fit([max(len(row[i]) for row in cells) for i in range(len(titles))], room)
    return [line for row in cells for line in _row(row, widths, right, indent)]


def _fit(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns until they fit."""
    while sum(widths) > room and max(widths) > 8:
        widest = widths.index(max(widths))
        others = [size for i, size in enumerate(widths) if i != widest]
        second = max([*others, 8])
        excess = sum(widths) - room
        widths[widest] -= max(1, min(excess, widths[widest] - second))
    return widths


def _row(
    row: Sequence[str], widths: Sequence[int], right: Sequence[bool], indent: str
) -> Iterator[str]:
    columns = [_wrap(cell, size) for cell, size in zip(row, widths, strict=True)]
    for height in range(max(map(len, columns))):
        parts = [
            f"{(c[height] if height < len(c) else ''):{'>' if to_right else '<'}{size}}"
            for c, size, to_right in zip(columns, widths, right, strict=True)
        ]
        yield f"{indent}{'  '.join(parts)}".rstrip()


def _wrap(text: str, size: int) -> list[str]:
    """Lines of at most `size` characters, broken at blanks, and JSON pointers at slashes."""
    lines = []
    blank = "/" if text.startswith("/") else " "
    while len(text) > size:
        cut = text.rfind(blank, 1, size + 1)
        cut = cut if cut > 0 else size
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def hang(label: str, text: object) -> list[str]:
    """A label and its text, wrapped beside it; words stay whole, to be copied from the screen."""
    lines: list[str] = []
    for word in plain(text).split():
        if lines and len(label) + len(lines[-1]) + 1 + len(word) <= width():
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [f"{' ' * len(label) if i else label}{line}" for i, line in enumerate(lines or [""])]


def pair(name: str, text: str) -> list[str]:
    return hang(f"{name:<10}", text)

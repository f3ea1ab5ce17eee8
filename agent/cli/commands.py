"""How a family of commands adds its own to the command line."""

import argparse
import re
from collections.abc import Callable
from typing import Any

_DIGITS = re.compile("[0-9]{1,19}")


class Commands:
    """Where commands are added: all of them know --socket and --json, and show an example."""

    def __init__(self, subparsers: Any, everywhere: argparse.ArgumentParser) -> None:
        self._subparsers = subparsers
        self._everywhere = everywhere

    def add(
        self, name: str, run: Callable[..., Any], text: str, *examples: str
    ) -> argparse.ArgumentParser:
        """A command. `run` gets the client and the options; it returns an answer and its printer.

        The answer is what --json prints; the printer prints it for a person.
        """
        title = "example" if len(examples) == 1 else "examples"
        parser: argparse.ArgumentParser = self._subparsers.add_parser(
            name,
            parents=[self._everywhere],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="\n  ".join([f"{title}:", *(f"sysvmctl {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, text: str) -> "Commands":
        """Commands of two words, such as `service list`."""
        parser = self._subparsers.add_parser(name, help=text)
        inner = parser.add_subparsers(title="commands", required=True)  # usage lists them
        return Commands(inner, self._everywhere)


def number(least: int, most: int) -> Callable[[str], int]:
    """What an argument is that is a whole number within these bounds."""

    def read(text: str) -> int:
        if _DIGITS.fullmatch(text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")

    return read


def revision_number(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a revision's number, as sysvmctl history has it"
        )
    return int(text)

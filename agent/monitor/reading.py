"""Does a daemon run with the revision's files? Where it does not, it is told to read them. Pure.

A reload that got lost, or a file that a hand changed and had loaded, is put right by that. What is
not (haproxy cannot bind, dnsmasq reads its main file when it starts alone) is an alert, and no
restart: a daemon that serves with other files is worth more than none.
"""

import enum
from dataclasses import dataclass, replace

WRONG = 3  # answers in a row from other files
TRIES = 3
FIRST_PAUSE = 5.0  # seconds until it is told again, doubled each time


class Turn(enum.Enum):
    """What an answer makes due."""

    READ = "read"  # tell it to read its files
    GIVEN_UP = "given-up"  # that does not help
    OVER = "over"  # it runs with them


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of it; times are seconds of a clock that never goes back."""

    wrong: int = 0  # answers in a row
    tries: int = 0  # TRIES + 1: given up
    due: float = 0.0  # of the next try


def turn(reading: Reading, correct: bool | None, now: float) -> tuple[Reading, Turn | None]:
    """An answer has come; None is one that says nothing of files."""
    if correct is None:
        return reading, None
    if correct:
        return Reading(), Turn.OVER if reading.tries else None
    reading = replace(reading, wrong=min(reading.wrong + 1, WRONG))
    if reading.wrong < WRONG or reading.tries > TRIES or now < reading.due:
        return reading, None
    told = replace(reading, tries=reading.tries + 1, due=now + FIRST_PAUSE * 2**reading.tries)
    return told, Turn.READ if told.tries <= TRIES else Turn.GIVEN_UP

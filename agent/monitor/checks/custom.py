"""Operators' own checks: what their exit code and their output mean.

The field's contract: the argument is `basic` or `advanced`; exit code 0 passed, 1 failed,
2 warning, 3 unknown; the text on standard output is the message; no text and exit code 0: it has
nothing to say at this level, and is not listed. Any other exit code is unknown, and named.
"""

from agent.monitor.checks import Check, Custom, CustomRun, Finding
from agent.monitor.health import Verdict

LONGEST_LINES, LONGEST_TEXT = 5, 1000
_CODES = {0: Verdict.PASSED, 1: Verdict.FAILED, 2: Verdict.WARNING, 3: Verdict.UNKNOWN}

_NOT_STARTED = 203  # EXIT_EXEC, systemd.exec(5)

CHECKS: tuple[Check, ...] = ()  # these are discovered on the machine, round by round


def text(output: bytes) -> str:
    """The first lines of what it said, with nothing in them that a terminal obeys."""
    lines = output[: 4 * LONGEST_TEXT].decode(errors="replace").splitlines()
    plain = ("".join(c if c.isprintable() else "?" for c in line).strip() for line in lines)
    return " / ".join([line for line in plain if line][:LONGEST_LINES])[:LONGEST_TEXT]


def judge(ended: CustomRun) -> Finding | None:
    """None: it is not registered at this level."""
    said = text(ended.output)
    if ended.limit:
        message = f"{ended.limit}: {said}" if said else ended.limit
        return Finding(verdict=Verdict.WARNING, message=message)
    if ended.code is None:
        return Finding(verdict=Verdict.UNKNOWN, message=said or "it did not say how it ended")
    if ended.code == 0 and not ended.output.strip():
        return None
    verdict = _CODES.get(ended.code)
    if verdict is None:
        message = (
            "it could not be started: its first line names no interpreter that is there"
            if ended.code == _NOT_STARTED and not said
            else f"exit code {ended.code}, which means nothing here"
        )
        return Finding(verdict=Verdict.UNKNOWN, message=f"{message}: {said}" if said else message)
    return Finding(verdict=verdict, message=said or f"exit code {ended.code}, without a text")


def refused(custom: Custom) -> Finding:
    return Finding(verdict=Verdict.UNKNOWN, message=f"it is not run: {custom.refused}")

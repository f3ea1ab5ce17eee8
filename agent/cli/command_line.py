"""The command line: families of commands, and how an answer or a complaint is printed."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.cli import (
    changes,
    checks,
    diagnostics,
    drift,
    events,
    revisions,
    services,
    show,
    summary,
)
from agent.cli.commands import Commands
from agent.cli.text import hang
from agent.cli.wire import OK, SAID_NO, SOCKET, UNUSABLE, Client, SaidNo, Unusable

# In the order in which --help lists them.
FAMILIES: Sequence[Callable[[Commands], None]] = (
    summary.add_to,
    show.add_to,
    revisions.add_to,
    drift.add_to,
    services.add_to,
    diagnostics.add_to,
    events.add_to,
    checks.add_to,
    changes.add_to,
)


EXAMPLES = """\
first look:
  sysvmctl status                who this VM is, what runs, is it as asked
  sysvmctl show rules            the firewall with its counters
  sysvmctl check                 is it well: every health check, run now
  sysvmctl logs dnsmasq          the last lines of a service's journal
  sysvmctl diag ping 10.1.1.10   try something; diag bundle: all for a ticket
  sysvmctl events -f             what has happened, and what happens

change something:
  sysvmctl plan vm.json          what would be done; nothing is
  sysvmctl apply vm.json         become what it says, or stay what it was
  sysvmctl apply vm.json --confirm 120
                                 go back after 120 s, unless
  sysvmctl confirm               says that all is well
  sysvmctl rollback              back to the document before this one
  echo '{"generation": 8, "site": {"domain": "net1.example"}}' |
    sysvmctl patch -             change one thing

what has been:
  sysvmctl history               revisions, newest first
  sysvmctl diff                  what the last change changed

exit codes: 0 well; 1 the VM said no; 2 wrong usage, or no agent
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        answer, printer = options.run(Client(options.socket), options)
        if options.json:
            print(json.dumps(answer, indent=2))
        else:
            printer(answer)
        sys.stdout.flush()
        if isinstance(answer, dict) and answer.get("exit", 0) != 0:
            return SAID_NO  # what was tried did not work
        return int(options.code(answer)) if "code" in options else OK
    except SaidNo as error:
        if options.json:
            print(json.dumps(error.problem, indent=2))
        _complain(error)
        return SAID_NO
    except Unusable as error:
        print(*hang("sysvmctl: ", error), *hang("  next: ", error.hint), sep="\n", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:  # `sysvmctl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("sysvmctl: interrupted; what was begun goes on: sysvmctl status", file=sys.stderr)
        return UNUSABLE
    return OK


# What to do next, where that is another command than the endpoint's own hint would have it.
_NEXT: Mapping[str, str] = {
    "nothing-applied": "sysvmctl apply FILE",
    "no-such-revision": "sysvmctl history lists those that are kept",
    "no-such-unit": "sysvmctl service list has those that are",
    "stale-generation": "apply the newest document, or go back on purpose: sysvmctl rollback",
    "generation-conflict": "compare with what runs (sysvmctl history, diff), then apply it with a "
    "greater generation",
    "not-provisional": "sysvmctl history shows what became of it",
    "awaiting-confirm": "sysvmctl confirm, or sysvmctl rollback, then try again",
    "precondition-failed": "somebody was faster: look at sysvmctl diff, then try again",
    "bad-request": "sysvmctl COMMAND --help has what it takes",
    "no-such-check": "sysvmctl check lists them",
    "refused": "correct that in the document, then apply it again",
    "rolled-back": "sysvmctl status and sysvmctl logs UNIT have more; then try again",
    "did-not-hold": "correct that in the document, then apply it again",
    "degraded": "sysvmctl status; then apply a document that works",
    "busy": "try again in a moment",
    "diagnostic-refused": "correct that, then try again",
    "too-many-streams": "try again when one of them has ended",
}


def _complain(error: SaidNo) -> None:
    """What, where, next: on standard error."""
    problem = error.problem
    lines = hang("sysvmctl: ", f"{error.name}: {error}")
    found = problem.get("problems", [])
    if problem.get("detail") and (not found or error.name == "did-not-hold"):
        lines += hang("  ", problem["detail"])
    for part in found:
        lines += hang("  ", f"{part['path'] or '/'}: {part['message']}")
        if part.get("hint"):
            lines += hang("      ", part["hint"])
    hint = _NEXT.get(error.name) or problem.get("hint")
    if hint:
        lines += hang("  next: ", hint)
    print("\n".join(lines), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sysvmctl",
        description="Ask and change this system VM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everywhere = argparse.ArgumentParser(add_help=False)
    _add_everywhere(parser, SOCKET, default_json=False)
    _add_everywhere(everywhere, argparse.SUPPRESS, default_json=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_to in FAMILIES:
        add_to(Commands(commands, everywhere))
    return parser


def _add_everywhere(parser: argparse.ArgumentParser, path: str, *, default_json: Any) -> None:
    parser.add_argument(
        "--socket", default=path, metavar="PATH", help=f"the agent's socket, by default {SOCKET}"
    )
    parser.add_argument(
        "--json", action="store_true", default=default_json, help="print JSON, for programs"
    )

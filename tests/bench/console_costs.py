"""What a key and a GiB cost at the console, sharply enough to judge a change of a few lines.

    .venv/bin/python -m tests.bench.console_costs [--against OTHER/.venv/bin/python]

All proxies run at the same time with their sessions open, and take turns of half a second: an hour
in which the machine is slow is the same one for all. What counts is CPU time, as a ratio to stock
websockify's within a round, and of those the median. Nothing is written: it is for whoever works
at the bridge, with another tree of this repository (`--against`, by its environment's Python) for
what was before.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.bench import console, console_proxies
from tests.bench.console_proxies import Browsers, Json, Proxy

_SLICE = 0.5  # seconds of keys
_FRAMES = {"plain": 24, "tls": 24}  # of 3 MiB, to one browser
_TEXTS = 1  # of 1 MiB, from each of 32


class Contender:
    """A proxy with its sessions, which waits for its turn."""

    def __init__(self, proxy: Proxy, stack: contextlib.ExitStack) -> None:
        self._proxy = proxy
        self._one = stack.enter_context(Browsers(proxy, 1))
        self._some = stack.enter_context(Browsers(proxy, 32))
        self._many = stack.enter_context(Browsers(proxy, console.MANY))
        self._one.ask("down 8")
        self._many.ask("keys 0.3 0")

    def turn(self, kind: str) -> Json:
        """CPU of a key and its answer in microseconds, and of a GiB each way in seconds."""
        keys, answer = self._timed(self._many, f"keys {_SLICE} 0")
        down, shown = self._timed(self._one, f"down {_FRAMES[kind]}")
        up, said = self._timed(self._some, f"up {_TEXTS} {console.PASTED}")
        paced = self._many.ask(f"keys {_SLICE} {console.RATE}")
        return {
            "key": keys / answer["trips"] * 1e6,
            "down": down / shown["bytes"] * console.GIB,
            "up": up / said["bytes"] * console.GIB,
            "p50": paced["p50"] * 1e3,
            "p99": paced["p99"] * 1e3,
        }

    def _timed(self, browsers: Browsers, line: str) -> tuple[float, Json]:
        before = self._proxy.cpu()
        answer = browsers.ask(line)
        return self._proxy.cpu() - before, answer


@contextlib.contextmanager
def _contenders(kind: str, against: str | None) -> Iterator[dict[str, Contender]]:
    tls = kind == "tls"
    with contextlib.ExitStack() as stack:
        screen = stack.enter_context(console_proxies.screens())
        proxies = {
            "websockify": console_proxies.stock(screen, tls=tls),
            "haproxy": console_proxies.floor(screen, tls=tls),
            "ours": console_proxies.ours(screen, tls=tls),
        }
        if against:
            proxies["before"] = console_proxies.ours(screen, tls=tls, python=against)
        started = {name: stack.enter_context(proxy) for name, proxy in proxies.items()}
        yield {name: Contender(proxy, stack) for name, proxy in started.items()}


def main() -> None:
    """Measure, in this network, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", help="another tree's Python")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kinds", default="plain,tls")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        console_proxies.available()
        again = [sys.executable, "-m", "tests.bench.console_costs", "--inside", *sys.argv[1:]]
        sys.exit(subprocess.run(["unshare", "--net", *again], check=False).returncode)
    console.network()
    for kind in given.kinds.split(","):
        with _contenders(kind, given.against) as contenders:
            order, rounds = list(contenders), []
            for _ in range(given.rounds):
                order.append(order.pop(0))
                rounds.append({name: contenders[name].turn(kind) for name in order})
        for name in contenders:
            sys.stdout.write(f"{kind:6}{name:12}{_told(rounds, name)}\n")
        sys.stdout.flush()


def _told(rounds: list[dict[str, Json]], name: str) -> str:
    words = []
    for what in ("key", "down", "up", "p50", "p99"):
        values = [one[name][what] for one in rounds]
        shares = [one[name][what] / one["websockify"][what] for one in rounds]
        words.append(f"{what} {statistics.median(values):8.3f} ({statistics.median(shares):.3f})")
    return "  ".join(words)


if __name__ == "__main__":
    main()

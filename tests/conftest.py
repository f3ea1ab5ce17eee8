"""What holds for every test: which ones run, what a skip means, how hard properties are tried.

- `--require=lab,image`: a test of such a kind that would be skipped fails instead, so that a
  machine that cannot boot a lab is never taken for one on which the lab's tests passed.
- A test that takes the fixture `browser` is of the kind `browser` as well: where there is no
  Chromium it may be skipped, unless that kind is required, too.
- Tests marked `fuzz`, `soak` or `proof` take long; they run only where `-m` names them.
- Properties are tried with examples that are the same in every run. `--hypothesis-profile=fuzz`
  tries many more, new ones each time; a test that sets no `max_examples` of its own follows.
- A test outside the lab reaches nothing but this machine.
- A test waits four times as long as it says before it fails: what it is about is that something
  comes, and the machine may be slow, or busy with others (`SYSVM_PATIENCE`, `wait_until`).
"""

import os
import re
import signal
import sys
from collections.abc import Generator, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# The processes of one run (xdist's workers) agree on the order of sets, and so on tests' names.
os.environ.setdefault("PYTHONHASHSEED", "0")
os.environ.setdefault("SYSVM_PATIENCE", "4")
# What is started in the background of a script ignores it, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

KINDS = ("lab", "image", "browser")
LONG = ("fuzz", "soak", "proof")
_HERE = Path(__file__).parent

hypothesis.settings.register_profile(
    "quick", derandomize=True, max_examples=50, deadline=None, database=None
)
hypothesis.settings.register_profile(
    "fuzz", derandomize=False, max_examples=5000, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("quick")  # the option --hypothesis-profile is looked at later


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        type=_kinds,
        default=frozenset(),
        metavar="KINDS",
        help=f"fail rather than skip tests of these kinds: {','.join(KINDS)}",
    )


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(filter(None, text.split(",")))
    if not kinds <= frozenset(KINDS):
        raise pytest.UsageError(f"--require={text}: it takes {','.join(KINDS)}")
    return kinds


# -- which ones run ----------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    named = set(re.findall(r"\w+", config.option.markexpr))
    unasked = [kind for kind in LONG if kind not in named]
    kept = [item for item in items if not any(map(item.get_closest_marker, unasked))]
    if len(kept) < len(items):
        left = set(map(id, kept))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in left])
        items[:] = kept


# -- what a skip means -------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        kinds = [kind for kind in _required(item.config) if item.get_closest_marker(kind)]
        if item.get_closest_marker("browser") and "browser" not in kinds:
            kinds = []
        _fail(report, kinds)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that is skipped as a whole has no marks yet: its folder says what it is of."""
    report = yield
    if report.skipped and collector.path.is_relative_to(_HERE):
        folders = collector.path.relative_to(_HERE).parts
        _fail(report, [kind for kind in _required(collector.config) if kind in folders])
    return report


def _required(config: pytest.Config) -> Iterable[str]:
    kinds: frozenset[str] = config.getoption("require")
    return sorted(kinds)


def _fail(report: Any, kinds: list[str]) -> None:
    """Make a skip of a required kind a failure that tells the skip's reason."""
    if not kinds:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{reason.removeprefix('Skipped: ')} (--require={','.join(kinds)})"


# -- no network --------------------------------------------------------------------------------

_offline = False


class ReachedOut(AssertionError):
    """A test that does not run in the lab went for another machine."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _offline  # noqa: PLW0603  # an audit hook has no other state than the module's
    _offline = not any(item.get_closest_marker(kind) for kind in (*KINDS, *LONG))
    try:
        return (yield)
    finally:
        _offline = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _offline or event not in {"socket.connect", "socket.sendto", "socket.getaddrinfo"}:
        return
    # connect and sendto: socket and address, which is a tuple in the internet's families.
    host = arguments[0]
    if event != "socket.getaddrinfo":
        address = arguments[1]
        if not isinstance(address, tuple) or not isinstance(address[0], str):
            return
        host = address[0]
    if not _local(host):
        raise ReachedOut(f"{event} {host}: only tests in the lab use a network")


def _local(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text == "localhost"
    return address.is_loopback or address.is_unspecified


sys.addaudithook(_audit)

"""Labs for tests: booted once a module, named after the process, and gone at the end."""

import itertools
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from appliance import blobs, tools
from appliance.errors import ApplianceError
from appliance.lab import Lab, cloud, state

_HERE = Path(__file__).parent
EXAMPLE = _HERE.parents[1] / "examples/router.json"
_COUNT = itertools.count(1)
_TEST_LAB = re.compile(r"t(\d+)x\d+")

Boot = Callable[..., Lab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder boots the system VM."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)


def lab_name() -> str:
    """A name that no other test run on this machine uses."""
    return f"t{os.getpid()}x{next(_COUNT)}"


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    """Skip where no lab can be booted (`--require=lab` makes that a failure)."""
    try:
        tools.need_root()
        tools.need(*tools.PACKAGES)
    except ApplianceError as error:
        pytest.skip(f"no lab: {error}")
    # A test run that was killed could not clean up after itself.
    for name in state.names():
        match = _TEST_LAB.fullmatch(name)
        if match and not _runs_tests(int(match[1])):
            cloud.down(name)


def _runs_tests(pid: int) -> bool:
    """Whether that may be a test run; the number may be another process's by now."""
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="module")
def boot_lab() -> Iterator[Boot]:
    """Boots labs of a test's own; `Lab.up`'s arguments. They go down after the module."""
    labs: list[Lab] = []

    def boot(topology: str = "router", *, fault: str | None = None) -> Lab:
        lab = Lab.up(topology, name=lab_name(), fault=fault)
        labs.append(lab)
        return lab

    yield boot
    for lab in labs:
        lab.down()


@pytest.fixture(scope="module")
def lab(boot_lab: Boot) -> Lab:
    """The module's lab, its agent answering, without a document; the example's blob is there."""
    lab = boot_lab()
    lab.vm.wait_ready()
    for path in blobs.beside(EXAMPLE):
        lab.manager.upload(path.read_bytes())
    return lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the VM's journal says to a failure."""
    report = yield
    if report.failed and _HERE in item.path.parents:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Lab):
                report.sections.append((f"journal of lab {value.name}", _journal(value)))
    return report


def _journal(lab: Lab) -> str:
    try:
        return lab.vm.journal("-n", "60")
    except Exception as error:  # noqa: BLE001  # whatever it is, the test's own failure counts
        return f"cannot be read: {error}"

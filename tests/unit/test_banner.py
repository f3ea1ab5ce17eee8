"""The console's banner: what it says in each state, and that it is harmless whatever it says."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import __version__, banner
from agent.banner import Told, render
from agent.document.document import parse
from agent.engine.store import Revision, State, Store
from agent.system.files import Disk
from agent.system.paths import Paths
from tests.unit.engine.documents import router

GOOD = Told("drive", ok=True, role="router", hostname="r-9-vm", control=("192.0.2.9",))
NOTHING = Told("none", problems=(("", "no channel has a boot configuration"),))


def revision(number: int = 3, cause: str = "push") -> Revision:
    return Revision.of(parse(router()), number, 1_790_000_000.0, cause)


def rows(text: str) -> dict[str, str]:
    """Values by label."""
    lines = [line for line in text.splitlines() if line[2:3].strip() and line[2] != "-"]
    return {line[2:14].strip(): line[14:] for line in lines if line.startswith("  ")}


def test_a_vm_that_serves_says_who_it_is() -> None:
    running = revision()
    told = rows(render(GOOD, State(current=3, confirmed=3, generation=1), running))
    assert told["system VM"] == f"{running.document.site.hostname}   router"
    assert told["sysvm"] == __version__
    assert told["document"] == f"generation {running.info.generation}, revision 3"
    assert told["health"] == "ok"


def test_control_addresses_are_the_running_documents() -> None:
    running = revision()
    wanted = [
        str(interface.ip)
        for nic in running.document.site.nics.values()
        if nic.role == "control"
        for interface in nic.addresses
    ]
    assert rows(render(GOOD, State(current=3, confirmed=3), running))["control"] == (
        ", ".join(wanted) or "no address"
    )
    assert rows(render(GOOD, State(), None))["control"] == "192.0.2.9"


def test_a_provisional_revision_says_until_when() -> None:
    state = State(current=3, confirmed=2, deadline=600.0)
    clock = 1_790_000_000.0 - 600.0
    assert rows(render(GOOD, state, revision(), clock=clock))["health"] == (
        "ok; goes back unless confirmed by 14:13:20 UTC"
    )


def test_degraded_says_why() -> None:
    state = State(current=3, confirmed=3, degraded="haproxy does not start")
    assert rows(render(GOOD, state, revision()))["health"] == "DEGRADED: haproxy does not start"


def test_without_a_boot_configuration_it_is_closed() -> None:
    text = render(NOTHING, State(), None)
    assert rows(text)["health"].startswith("CLOSED: nobody has said what this VM is")
    assert rows(text)["system VM"] == "(no name yet)   (no role yet)"
    assert "  - /: no channel has a boot configuration\n" in text


def test_every_problem_of_a_broken_boot_configuration_is_shown() -> None:
    problems = tuple((f"/nics/{n}", "is not a NIC of this machine") for n in range(5))
    text = render(Told("drive", problems=problems), State(current=3, confirmed=3), revision())
    assert rows(text)["health"] == "CLOSED: its boot configuration (drive) cannot be used"
    assert [line for line in text.splitlines() if line.startswith("  - ")] == [
        f"  - {path}: {message}" for path, message in problems
    ]


def test_more_problems_than_a_screen_holds_are_counted() -> None:
    problems = tuple((f"/nics/{n}", "is wrong") for n in range(40))
    text = render(Told("drive", problems=problems), State(), None)
    assert "  ... and 28 more; see the journal\n" in text
    assert len(text.splitlines()) < 25


def test_what_kept_it_from_coming_up_is_said() -> None:
    assert rows(render(GOOD, None, None, "state.json: not JSON"))["health"] == (
        "CLOSED: state.json: not JSON"
    )


@given(st.text(max_size=600), st.text(max_size=80), st.text(max_size=80))
def test_nothing_that_a_terminal_obeys_gets_through(cause: str, name: str, message: str) -> None:
    told = Told(name, problems=((name, message),), role=name, hostname=name, control=(name,))
    for ok in (True, False):
        given = Told(told.source, ok, told.problems, told.role, told.hostname, told.control)
        text = render(given, State(degraded=cause, current=1), None, "")
        assert all(c == "\n" or " " <= c <= "~" for c in text)
        assert all(len(line) < 80 for line in text.splitlines())


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for name in ("run", "state/revisions"):
        (tmp_path / name).mkdir(parents=True)
    return Paths(tmp_path / "run", tmp_path / "state")


def announced(paths: Paths) -> Store:
    return Store(paths.state, Disk(), lambda store: banner.write(paths, store))


def test_a_stored_state_changes_the_banner_and_a_transaction_under_way_does_not(
    paths: Paths,
) -> None:
    (paths.run / "boot-status.json").write_text(json.dumps({"source": "drive", "ok": True}))
    store = announced(paths)
    store.put_revision(revision(1))
    store.put_state(State(current=1, confirmed=1, making=2))
    assert not banner.place(paths).exists()
    store.put_state(State(current=1, confirmed=1))
    assert "revision 1" in rows(banner.place(paths).read_text())["document"]
    store.put_state(State(current=1, confirmed=1, degraded="it broke"))
    assert rows(banner.place(paths).read_text())["health"] == "DEGRADED: it broke"


def test_the_same_banner_is_not_written_again(paths: Paths) -> None:
    store = announced(paths)
    store.put_state(State())
    before = banner.place(paths).stat()
    store.put_state(State())
    assert banner.place(paths).stat().st_ino == before.st_ino
    assert banner.place(paths).stat().st_mode & 0o777 == 0o644


def test_a_vm_that_keeps_nothing_says_so(paths: Paths) -> None:
    banner.write(paths, announced(paths))
    assert "STATE" not in rows(banner.place(paths).read_text())
    paths.state_problem.write_text("the state partition cannot be used\n")
    banner.write(paths, announced(paths))
    said = rows(banner.place(paths).read_text())
    assert said["STATE"] == "the state partition cannot be used"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"problems": [1]}', '{"ok": "yes"}'])
def test_a_rotten_status_fails_nothing(paths: Paths, text: str) -> None:
    (paths.run / "boot-status.json").write_text(text)
    announced(paths).put_state(State())


def test_a_rotten_state_is_said(paths: Paths) -> None:
    (paths.run / "boot-status.json").write_text(json.dumps({"source": "drive", "ok": True}))
    (paths.state / "state.json").write_text("{")
    banner.write(paths, announced(paths))
    assert rows(banner.place(paths).read_text())["health"].startswith("CLOSED: ")


def test_checks_that_fail_are_named_where_nothing_is_worse() -> None:
    state = State(current=3, confirmed=3, generation=1)
    told = rows(render(GOOD, state, revision(), failing="dhcp, dns"))
    assert told["health"] == "checks fail: dhcp, dns"
    told = rows(render(GOOD, state, revision(), ill="dnsmasq: crash-loop", failing="dhcp, dns"))
    assert told["health"] == "ALERT: dnsmasq: crash-loop"

"""The command line, against a manager of its own process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.cli import app
from appliance.errors import ApplianceError
from appliance.lab.wait import wait_until
from appliance.manager.client import Client
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.process import running


class Shell:
    """Says commands to a manager."""

    def __init__(self, database: str, manager: str) -> None:
        self.manager = manager
        self._environment = {"SYSVM_DATABASE": database, "SYSVM_MANAGER": manager}

    def __call__(self, *words: str, token: str = "") -> str:
        environment = self._environment | {"SYSVM_TOKEN": token}
        answer = CliRunner().invoke(app, list(words), env=environment)
        if answer.exception is not None:
            raise answer.exception
        return answer.output

    def ask(self, token: str, path: str, value: object) -> None:
        """Say what has no command, for the cloud says it."""
        Client(self.manager, token).ask("PUT", path, value)


@pytest.fixture(scope="module")
def agent(keys: Keys) -> Iterator[Agent]:
    with agents(keys, 1) as (made,):
        yield made


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Commands to a manager."""
    folder = tmp_path_factory.mktemp("manager")
    url = f"sqlite:///{folder}/manager.db"
    with running(url, keys, folder, "m1") as manager:
        yield Shell(url, manager.url)


@pytest.fixture(scope="module")
def root(run: Shell) -> str:
    return run("manager", "token", "add", "root", "--role", "operate", "--days", "2").strip()


def test_tokens_are_made_listed_and_revoked(run: Shell) -> None:
    token = run("manager", "token", "add", "bob", "--role", "see").strip()
    assert "bob" not in token
    line = next(one for one in run("manager", "token", "list").splitlines() if "bob" in one)
    assert token not in line
    assert "No proxy" not in run("console", "proxies", token=token)
    run("manager", "token", "revoke", line.split()[0])
    with pytest.raises(ApplianceError, match="no token"):
        run("console", "proxies", token=token)


def test_a_vm_is_pushed_to_shown_and_recreated(
    run: Shell, root: str, keys: Keys, agent: Agent, tmp_path: Path
) -> None:
    with agents(keys, 1) as (router,):
        router.begin_anew(FakeEngine())
        run.ask(root, "/v1/vms/vm1", {"role": "router", "zone": "z1", "agent": router.url})
        path = tmp_path / "router.json"
        path.write_text(json.dumps(fake.value(3)))
        assert run("vm", "push", "vm1", str(path), "--dry-run", token=root).startswith(
            "vm1: planned"
        )
        said = "vm1: committed, revision 1, generation 3\n"
        assert run("vm", "push", "vm1", str(path), token=root) == said
        assert "router" in run("vm", "list", token=root)
        assert "-/3" in run("vm", "list", "--role", "router", token=root)
        assert run("vm", "list", "--zone", "z2", token=root) == ""
        assert "agent version" in run("vm", "show", "vm1", token=root)
        router.begin_anew(FakeEngine())
        assert run("vm", "recreate", "vm1", token=root) == said
        path.write_text(json.dumps(fake.value(2)))
        with pytest.raises(ApplianceError, match="older"):
            run("vm", "push", "vm1", str(path), token=root)
    with pytest.raises(ApplianceError, match="vm9"):
        run("vm", "show", "vm9", token=root)


def test_a_console_is_opened_listed_and_ended(run: Shell, root: str, agent: Agent) -> None:
    run.ask(
        root, "/v1/proxies/p1", {"zone": "z1", "agent": agent.url, "link": "https://p1.example/"}
    )
    target = {"address": "10.2.0.7", "port": 5901}
    run.ask(root, "/v1/screens/i-2-10-VM", {"owner": "root", "zone": "z1", "target": target})
    wait_until(lambda: "running" in run("console", "proxies", token=root), 60, "it reports")
    link = run("console", "open", "i-2-10-VM", "--no-browser", token=root).strip()
    assert link.startswith("https://p1.example/#s=")
    (line,) = run("console", "sessions", token=root).splitlines()
    assert "i-2-10-VM" in line
    assert "1 sessions of p1" in run("console", "drain", "p1", "--within", "60", token=root)
    run("console", "drain", "p1", "--end", token=root)
    if "i-2-10-VM" in run("console", "sessions", token=root):  # what is offered ends by a drain
        run("console", "disconnect", line.split()[0], token=root)
    wait_until(lambda: run("console", "sessions", token=root) == "", 60, "it is over")
    assert "i-2-10-VM" in run("console", "sessions", "--ended", token=root)
    assert "0 sessions of p1" in run("console", "restart", "p1", token=root)


def test_events_are_shown(run: Shell, root: str) -> None:
    with pytest.raises(ApplianceError):
        run("console", "open", "i-2-11-VM", "--no-browser", token=root)
    shown = run("vm", "events", "-n", "5", token=root)
    for line in run("vm", "events", "--json", token=root).splitlines():
        assert json.loads(line)["id"] >= 1
    assert "Traceback" not in shown


def test_a_manager_that_is_not_there_is_said(run: Shell, root: str) -> None:
    with pytest.raises(ApplianceError, match="does not answer"):
        run("vm", "list", "--manager", "http://127.0.0.1:9", token=root)
    with pytest.raises(ApplianceError, match="no token"):
        run("vm", "list")

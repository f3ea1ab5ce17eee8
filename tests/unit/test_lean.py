"""What is imported: each module takes memory for good, and at boot its time."""

import subprocess
import sys

import pytest

from agent import lean

# What libraries would import for uses that we do not make of them.
IDLE = (
    "asyncio", "click", "cryptography", "dns", "email.message", "email.parser", "flask.cli",
    "http.client", "http.server", "importlib.metadata", "multiprocessing", "pyroute2.iproute",
    "ssl", "unittest", "werkzeug.serving", "werkzeug.test", "zipfile",
)  # fmt: skip
# What the agent needs, and the restore does not.
SERVING = ("flask", "psutil", "sqlite3", "waitress", "werkzeug", "agent.api.app")


def imported(code: str) -> set[str]:
    """The modules that are there after the code has run in an interpreter of its own."""
    whole = f"import sys\n{code}\nprint(*sys.modules)"
    argv = [sys.executable, "-I", "-c", whole]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_restore_imports_nothing_that_it_does_not_need() -> None:
    there = imported("import agent.main; from agent.services import discover; discover()")
    assert there & {*IDLE, *SERVING} == set()


def test_agent_imports_nothing_that_it_does_not_need() -> None:
    there = imported("import agent.main, agent.api.app, agent.api.server, agent.system.machine")
    assert there & set(IDLE) == set()
    assert {"flask", "waitress", "werkzeug", "psutil"} <= there


def test_what_was_left_out_is_there_for_who_asks_later() -> None:
    there = imported(
        "import agent.api.app, click, werkzeug.serving\n"
        "from werkzeug.test import Client\n"
        "assert issubclass(click.Group, click.Command) and werkzeug.serving.run_simple\n"
    )
    assert {"click", "http.server", "werkzeug.test"} <= there


def test_module_is_empty_only_inside() -> None:
    name = "tests_of_lean_have_no_such_module"
    with lean.without(name):
        module = __import__(name)
        assert isinstance(module.Anything(), module.Anything)
        with pytest.raises(AttributeError):
            _ = module.__path__
    with pytest.raises(ModuleNotFoundError):
        __import__(name)


def test_what_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with lean.without("json"):
        import json

        assert json.loads("1") == 1
    assert sys.modules["json"] is json

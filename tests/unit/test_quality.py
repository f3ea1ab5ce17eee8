"""Types, lint, format, the import contract and generated docs, as tests like any other."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> None:
    completed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is not installed: make test installs it"
    return found


def test_types() -> None:
    run(sys.executable, "-m", "mypy")


def test_lint() -> None:
    run(tool("ruff"), "check", ".")


def test_format() -> None:
    run(tool("ruff"), "format", "--check", ".")


def test_import_contract() -> None:
    run(tool("lint-imports"), "--no-cache")


def test_reference_of_the_document_is_up_to_date() -> None:
    from appliance.reference import markdown

    assert (ROOT / "docs" / "document.md").read_text() == markdown(), "run `make docs`"


def test_reference_of_events_is_up_to_date() -> None:
    from appliance.reference import events

    assert (ROOT / "docs/events.md").read_text() == events(), "run `make docs`"


def test_nothing_of_the_workplace_is_in_the_project() -> None:
    listed = subprocess.run(
        ("git", "ls-files"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    forbidden = ("../" + "shared", "/wo" + "rk/")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".png", ".gz"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        assert not any(word in text for word in forbidden), name


def test_the_agent_imports_without_what_only_the_host_has() -> None:
    """The VM has no typer, rich, httpx or pytest: the agent must start without them."""
    assert importlib.util.find_spec("agent.main")
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'pytest', 'appliance'): sys.modules[name] = None\n"
        "import agent.main, agent.api.app, agent.system.machine\n"
    )
    run(sys.executable, "-c", code)

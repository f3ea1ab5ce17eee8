"""The command line as a whole: what ends it is said in words."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("missing", "words"),
    [("httpx", ["vm", "list"]), ("sqlalchemy", ["manager", "token", "list"])],
)
def test_what_is_not_installed_is_said_in_words(missing: str, words: list[str]) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from appliance.cli import main; "
        f"sys.argv = ['sysvm', *{words!r}]; main()"
    )
    environment = {
        "SYSVM_MANAGER": "https://127.0.0.1:1",
        "SYSVM_TOKEN": "0",
        "SYSVM_DATABASE": "sqlite:///:memory:",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"sysvm: {missing} is not installed\n"), done.stderr
    assert "Traceback" not in done.stderr

"""The demo, from the command line to its end."""

import sys
from pathlib import Path

from agent.system.run import run
from appliance.demo import CHAPTERS
from appliance.lab import state
from tests.lab.conftest import Boot

SYSVM = Path(sys.executable).with_name("sysvm")


def test_everything_it_shows_goes_as_it_should(boot_lab: Boot) -> None:
    name = boot_lab().name  # one that is up is replaced
    done = run([str(SYSVM), "demo", "--name", name, "--down"], timeout=240, check=False)
    said = done.text
    assert done.returncode == 0, said + done.stderr.decode()
    assert "FAILED" not in said
    assert said.count("\n  ok ") == sum(len(chapter.trials) for chapter in CHAPTERS)
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 80
    assert name not in state.names()

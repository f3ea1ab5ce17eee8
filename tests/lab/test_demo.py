"""The demo, from the command line to its end."""

import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from agent.system.run import Completed, run
from appliance.demo import CHAPTERS
from appliance.lab import Lab, state
from appliance.lab.viewer import viewing
from tests.lab.conftest import EXAMPLE, Boot

SYSVM = Path(sys.executable).with_name("sysvm")


def sysvm(*words: str) -> Completed:
    return run([str(SYSVM), *words], timeout=240, check=False)


def test_everything_it_shows_goes_as_it_should(boot_lab: Boot) -> None:
    name = boot_lab().name  # one that is up is replaced
    done = sysvm("demo", "--name", name)
    said = done.text
    assert done.returncode == 0, said + done.stderr.decode()
    assert "FAILED" not in said
    assert said.count("\n  ok ") == sum(len(chapter.trials) for chapter in CHAPTERS)
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 80
    # What it says at its end can be done.
    pushed = sysvm("lab", "push", "--name", name, "--next", str(EXAMPLE))
    assert pushed.text.startswith("committed"), pushed.text
    asked = said.partition("does:\n")[2].partition("See ")[0].partition("  (")[2]
    status = run(["bash", "-c", f"({asked}"], timeout=30)
    assert json.loads(status.stdout)["hostname"] == "r-1-vm"
    lab = Lab.find(name)
    for link in (said.rpartition("https://")[2].split()[0], "another"):
        url = f"https://{link}"
        if link == "another":
            url = sysvm("lab", "console", "--name", name).text.strip()
        port = urlsplit(url).port
        assert port is not None
        with viewing(
            socket.create_connection(("127.0.0.1", port)),
            lab.keys.authority.identity.certificate,
            url,
        ) as console:
            assert console.title == "vm1"
    assert sysvm("lab", "down", "--name", name).returncode == 0
    assert name not in state.names()

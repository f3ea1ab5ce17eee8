"""What the console shows: the state, each change of it, and that the agent is gone."""

import re
from collections.abc import Callable

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import Router, example

UNIT = "sysvm-agent.service"


def shown(lab: Lab) -> dict[str, str]:
    """The last whole banner at the console, by label."""
    text = lab.vm.container.console.read_bytes().decode(errors="replace").replace("\r", "")
    start = text.rfind("  system VM ")
    found: dict[str, str] = {}
    for line in text[start:].splitlines() if start >= 0 else ():
        row = re.fullmatch(r"  ([a-zA-Z ]{12})(\S.*)", line)
        if row is None:
            break
        found[row[1].strip()] = row[2]
    return found


def shows(lab: Lab, label: str, value: str) -> dict[str, str]:
    """Wait until the console shows this."""
    wait_until(lambda: value in shown(lab).get(label, ""), 20, f"{label}: {value} at the console")
    return shown(lab)


def test_it_says_what_runs_and_follows_changes(lab: Lab) -> None:
    before = shows(lab, "agent", "runs")
    assert before["system VM"] == "r-1-vm   router"
    assert before["control"] == "169.254.10.2"
    assert before["document"].startswith("none yet")
    assert before["health"] == "ok"
    router = Router(lab)
    router.push(example())
    shows(lab, "document", "generation 1, revision 2")
    answer = lab.vm.request("PUT", "/v1/document?confirm_within=60", json=router.next(example()))
    assert answer.status == 202, answer.text
    shows(lab, "health", "ok; goes back unless confirmed by ")
    assert lab.vm.request("POST", "/v1/rollback").status in {200, 201}
    shows(lab, "document", "revision 4")
    assert shown(lab)["health"] == "ok"


def test_it_says_that_the_agent_is_gone_and_back(lab: Lab) -> None:
    lab.vm.run(["systemctl", "stop", UNIT])
    shows(lab, "agent", "DOES NOT RUN (inactive)")
    lab.vm.run(["systemctl", "start", UNIT])
    shows(lab, "agent", "runs")


def test_it_costs_nothing_while_nothing_changes(lab: Lab) -> None:
    shows(lab, "agent", "runs")
    state = ["systemctl", "show", "--property=ActiveState", "--value", "sysvm-console.service"]
    wait_until(lambda: lab.vm.run(state).text.strip() == "inactive", 20, "the console's end")
    before = lab.vm.container.console.read_text(errors="replace").count("system VM")
    assert lab.vm.request("GET", "/v1/status").status == 200
    assert lab.vm.container.console.read_text(errors="replace").count("system VM") == before


def test_a_console_that_hangs_is_ended_and_shows_the_next_change(lab: Lab) -> None:
    """As after ten minutes: two seconds are allowed here, and the agent takes longer to start."""
    drop_ins = "/run/systemd/system"

    def drop_in(unit: str, line: str) -> None:
        folder = f"{drop_ins}/{unit}.d"
        lab.vm.run(["mkdir", "-p", folder])
        text = f"printf '[Service]\\n{line}\\n' >{folder}/test.conf && systemctl daemon-reload"
        lab.vm.run(["sh", "-c", text])

    def console(name: str) -> str:
        show = ["systemctl", "show", f"--property={name}", "--value", "sysvm-console.service"]
        return lab.vm.run(show).text.strip()

    shows(lab, "agent", "runs")
    assert console("RuntimeMaxUSec") == "10min"
    lab.vm.run(["systemctl", "stop", UNIT])
    wait_until(lambda: console("ActiveState") == "inactive", 30, "the console's end")
    try:
        drop_in("sysvm-console.service", "RuntimeMaxSec=2s")
        drop_in(UNIT, "ExecStartPre=/bin/sleep 300")
        lab.vm.run(["systemctl", "start", "--no-block", UNIT])
        shows(lab, "agent", "starts")
        wait_until(lambda: console("Result") == "timeout", 30, "the console's end")
    finally:
        lab.vm.run(["systemctl", "kill", "--signal=KILL", UNIT], check=False)
        lab.vm.run(["sh", "-c", f"rm {drop_ins}/*.d/test.conf; systemctl daemon-reload"])
        lab.vm.run(["systemctl", "restart", UNIT])
    shows(lab, "agent", "runs")
    wait_until(lambda: console("ActiveState") == "inactive", 20, "the console's end")
    assert console("Result") == "success"


def test_a_broken_boot_configuration_is_shown_with_every_problem(
    boot_lab: Callable[[], Lab],
) -> None:
    lab = boot_lab()
    lab.vm.wait_ready()
    told = lab.vm.boot_configuration()
    lab.vm.set_boot({**told, "hostname": "\u001b[2J evil", "role": "toaster"})
    lab.vm.reboot()
    shows(lab, "health", "CLOSED: its boot configuration (credential) cannot be used")
    text = lab.vm.read("/run/sysvm/banner").decode()
    assert "  - /role: " in text
    assert "  - /hostname: " in text
    assert "\u001b" not in text
    assert not lab.manager.reaches("169.254.10.2", 8443, timeout=0.5)
    lab.vm.set_boot(told)
    lab.vm.reboot()
    shows(lab, "health", "ok")


def test_nobody_is_asked_to_log_in(lab: Lab) -> None:
    listed = ["systemctl", "list-units", "--plain", "--no-legend", "--all", "*getty*"]
    units = [line.split()[:3] for line in lab.vm.run(listed).text.splitlines()]
    assert [unit for unit in units if unit[1] != "masked"] == [["getty.target", "loaded", "active"]]
    assert all(unit[2] == "inactive" for unit in units if unit[1] == "masked")
    assert "login:" not in lab.vm.container.console.read_text(errors="replace")

"""The libraries that the template has, at their locked versions, bear to be imported in part."""

from appliance.lab import Lab
from tests.unit.test_lean import IDLE, SERVING

PYTHON = "/opt/sysvm/bin/python3"
AGENT = "import agent.main, agent.api.app, agent.api.server, agent.system.machine"


def imported(lab: Lab, code: str) -> set[str]:
    whole = f"import sys\n{code}\nprint(*sys.modules)"
    return set(lab.vm.run([PYTHON, "-I", "-c", whole]).text.split())


def test_agent_is_imported_without_what_it_never_uses(lab: Lab) -> None:
    there = imported(lab, AGENT)
    assert there & set(IDLE) == set()
    assert {"flask", "waitress", "pydantic", "pyroute2.netlink"} <= there


def test_restore_is_imported_without_what_the_agent_alone_needs(lab: Lab) -> None:
    there = imported(lab, "import agent.main; from agent.services import discover; discover()")
    assert there & {*IDLE, *SERVING} == set()


def test_templates_come_compiled(lab: Lab) -> None:
    code = (
        "from agent import services\n"
        "template = services._environment().get_template('dhcp_dns/dnsmasq.conf')\n"
        "print(template.root_render_func.__code__.co_filename)"
    )
    assert "services/compiled" in lab.vm.run([PYTHON, "-I", "-c", code]).text


def test_nics_are_found_first_and_all_else_as_debian_has_it(lab: Lab) -> None:
    unit = lab.vm.run(["systemctl", "cat", "systemd-udev-trigger.service"]).text
    debians, ours = (
        line.partition("--prioritized-subsystem=")
        for line in unit.splitlines()
        if line.startswith("ExecStart=-")
    )
    buses = {"pci", "virtio", "vmbus", "xen"}
    assert ours[0] == debians[0]
    assert [name for name in ours[2].split(",") if name not in buses | {"net"}] == [
        name for name in debians[2].split(",") if name != "net"
    ]
    assert set(ours[2].split(",")) - set(debians[2].split(",")) == buses

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

"""The agent is stopped in an orderly way: what it is doing then is finished."""

from appliance.lab import Lab
from tests.lab.conftest import EXAMPLE

PLACE = "/firewall/ingress/203.0.113.10/ping"


def counted(lab: Lab) -> int:
    rows = lab.vm.request("GET", "/v1/show/rules").json()
    return sum(row["packets"] for row in rows if row["comment"] == PLACE)


def test_counters_are_kept_whenever_it_is_stopped(lab: Lab) -> None:
    """systemd must not end the commands that the agent still runs, as it did now and then."""
    assert lab.manager.push(EXAMPLE.read_bytes()).status == 201
    kept = "/var/lib/sysvm/totals.json"
    for _ in range(8):
        before = lab.vm.run(["stat", "--format=%.Y", kept], check=False).text
        assert lab.internet.pings("203.0.113.10")
        lab.vm.run(["systemctl", "stop", "sysvm-agent"])
        assert lab.vm.run(["stat", "--format=%.Y", kept]).text != before
        lab.vm.run(["systemctl", "start", "sysvm-agent"])
        lab.vm.wait_ready()
    expected = counted(lab)
    assert expected >= 8
    lab.vm.reboot()
    lab.vm.wait_ready()
    assert counted(lab) == expected

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.qemu import guest
from appliance.qemu.guest import Verdict
from appliance.qemu.machine import Machine, Port

SAID = """\
udhcpc: started\r
verdict 1 dhcp= dns= nat=\r
verdict 2 dhcp=10.1.1.10 dns=198.51.100.10 nat=203.0.113.10\r
"""


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Machine]:
    def said(text: str) -> Machine:
        (tmp_path / "console.log").write_text(text, newline="")
        port = Port("guest", "02:00:0a:01:01:0a")
        spec = guest.spec("vm1", port, tmp_path / "vmlinuz", tmp_path / "initrd")
        return Machine(spec, tmp_path, "lab", ())

    return said


def test_verdicts_are_read_from_the_console(machine: Callable[[str], Machine]) -> None:
    first, second = guest.verdicts(machine(SAID))
    assert first == Verdict(1, "", "", "")
    assert not first.served
    assert second == Verdict(2, "10.1.1.10", "198.51.100.10", "203.0.113.10")
    assert second.served


def test_half_a_line_is_no_verdict(machine: Callable[[str], Machine]) -> None:
    assert guest.last(machine("verdict 3 dhcp=10.1.1.10 dns=")).served is False


def test_silent_guest_is_in_round_0(machine: Callable[[str], Machine]) -> None:
    assert guest.last(machine("")) == Verdict(0, "", "", "")

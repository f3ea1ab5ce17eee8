from ipaddress import ip_address
from pathlib import Path

from agent.system import dnsmasq
from agent.system.dnsmasq import LeaseRow


def test_leases_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_text(
        "1795400000 02:00:00:00:00:01 10.1.1.5 vm-1 01:02:00:00:00:00:01\n"
        "0 02:00:00:00:00:02 10.1.1.6 * *\n"
        "duid 00:01:00:01:2e:f0\n"
        "1795400000 1 2001:db8::5 vm-1 00:01:00:01\n"
    )
    assert dnsmasq.leases(path) == (
        LeaseRow(
            1795400000,
            "02:00:00:00:00:01",
            ip_address("10.1.1.5"),
            "vm-1",
            "01:02:00:00:00:00:01",
        ),
        LeaseRow(0, "02:00:00:00:00:02", ip_address("10.1.1.6"), "", ""),
        LeaseRow(1795400000, "1", ip_address("2001:db8::5"), "vm-1", "00:01:00:01"),
    )


def test_no_file_is_no_leases(tmp_path: Path) -> None:
    assert dnsmasq.leases(tmp_path / "leases") == ()

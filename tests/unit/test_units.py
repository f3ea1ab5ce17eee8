"""What the VM is shipped with besides the agent: units, settings and the scripts they run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.roles import baseline
from agent.system.run import run
from appliance import data
from appliance.image import base

UNITS = data.units()
SCRIPTS = ("conntrack", "clock", "console", "ssh-keys")
# Of Debian's packages; every other unit that starts at boot is ours.
FROM_PACKAGES = {"chrony.service", "open-vm-tools.service"}


def unit_files() -> list[Path]:
    return sorted(path for path in (UNITS / "system").rglob("*") if path.is_file())


def settings(path: Path) -> Iterator[tuple[str, str]]:
    """Keys and values of a sysctl.d(5) file."""
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            key, separator, value = line.partition(" = ")
            assert separator, line
            yield key, value


def test_presets_name_units_that_there_are() -> None:
    named = set(base.listed(UNITS / "presets"))
    ours = {path.name for path in (UNITS / "system").iterdir() if path.is_file()}
    assert named - FROM_PACKAGES <= ours
    for name in named - FROM_PACKAGES:
        assert "\n[Install]\n" in (UNITS / "system" / name).read_text(), name


@pytest.mark.parametrize("path", unit_files(), ids=lambda p: str(p.relative_to(UNITS / "system")))
def test_unit_says_why_it_is_there_and_finds_what_it_runs(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    for name in re.findall(r"/usr/lib/sysvm/([\w.-]+)", text):
        assert (UNITS / "share" / name).is_file(), name


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_one_for_debians_shell(name: str) -> None:
    shell = shutil.which("dash") or "sh"
    run([shell, "-n", str(UNITS / "share" / name)], timeout=10)


@pytest.mark.parametrize(
    ("kilobytes", "most"),
    [(20_000, 16_384), (262_144, 65_536), (1_048_576, 262_144), (90_000_000, 2_097_152)],
)
def test_tracked_connections_go_by_the_memory(kilobytes: int, most: int, tmp_path: Path) -> None:
    """256 MB must do for the 65,536 connections that a busy isolated network has."""
    text = (UNITS / "share/conntrack").read_text()
    for place, name in (
        ("/proc/meminfo", "memory"),
        ("/sys/module/nf_conntrack/parameters/hashsize", "buckets"),
        ("/proc/sys/net/netfilter/nf_conntrack_max", "most"),
    ):
        assert text.count(place) == 1
        text = text.replace(place, str(tmp_path / name))
    (tmp_path / "memory").write_text(f"MemTotal:       {kilobytes} kB\nMemFree: 1 kB\n")
    (tmp_path / "script").write_text(text)
    run(["sh", str(tmp_path / "script")], timeout=10)
    assert int((tmp_path / "most").read_text()) == most
    assert int((tmp_path / "buckets").read_text()) == most // 4


def test_a_kernel_setting_has_one_owner() -> None:
    keys = [key for key, _ in settings(UNITS / "sysctl.d/60-sysvm.conf")]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(baseline._SYSCTLS)  # noqa: SLF001 - whose they would be


def test_forwarding_waits_for_the_firewall() -> None:
    told = dict(settings(UNITS / "sysctl.d/60-sysvm.conf"))
    assert not [key for key in told if "forward" in key]


def test_ephemeral_ports_are_none_that_something_listens_on() -> None:
    told = dict(settings(UNITS / "sysctl.d/60-sysvm.conf"))
    first, last = map(int, told["net.ipv4.ip_local_port_range"].split())
    assert not {53, 67, 80, 3922, 8080, 8443} & set(range(first, last + 1))

"""What the VM keeps to itself, what its daemons are kept from, and what they cannot fill."""

import json
import re
import stat
from pathlib import Path

import pytest

from appliance.image import listing, rootfs
from appliance.lab import Lab
from tests.lab.helpers import Router, example

# `systemd-analyze security`: 0 is kept from everything, 10 from nothing. None may get worse.
# Of units without default dependencies (sysvm-restore, dnsmasq) it does not count what keeps them
# from files, though it holds.
EXPOSURE = {
    "sysvm-agent": 4.6,
    "sysvm-restore": 5.0,
    "sysvm-boot": 4.8,
    "sysvm-confirm@1": 4.6,
    "sysvm-front": 1.4,
    "sysvm-console": 2.8,
    "sysvm-passwords": 1.1,
    "sysvm-console-proxy": 1.6,
    "sysvm-remote-log": 1.4,
    "dnsmasq": 3.2,
    "haproxy": 2.9,
    "apache2": 2.7,
    "chrony": 3.2,
    "qemu-guest-agent": 2.6,
    "hv-kvp-daemon": 4.3,
    "open-vm-tools": 7.2,
}
DAEMONS = ("sysvm-agent", "sysvm-front", "dnsmasq", "haproxy", "apache2")
GUEST_TOOLS = ("qemu-guest-agent", "open-vm-tools", "hv-kvp-daemon", "hv-vss-daemon", "chrony")

_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=:, -]{16,}")
_IDENTITIES = ("ssh_host_*", "id_rsa*", "id_ed25519*", "random-seed", "*.keytab")


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example's router: every daemon runs."""
    router = Router(lab)
    router.push(example())
    return router


# -- the template ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> tuple[Path, ...]:
    """The layers of the template's root file system, before any boot."""
    return rootfs.layers().lowers


def test_template_has_no_password(template: tuple[Path, ...]) -> None:
    shadows = [path for root in template if (path := root / "etc/shadow").exists()]
    assert shadows
    for shadow in shadows:
        passwords = dict(line.split(":")[:2] for line in shadow.read_text().splitlines())
        assert passwords["root"] == "*"
        assert {name for name, word in passwords.items() if word[:1] not in {"*", "!"}} == set()


def test_nobody_but_root_has_a_shell(lab: Lab) -> None:
    rows = [line.split(":") for line in lab.vm.read("/etc/passwd").decode().splitlines()]
    shells = {row[0] for row in rows if row[6] not in {"/usr/sbin/nologin", "/bin/false"}}
    assert shells <= {"root", "sync"}  # sync(1) is all that its shell is
    assert {row[0] for row in rows if row[2] == "0"} == {"root"}


def test_template_has_no_key_and_no_identifier(template: tuple[Path, ...]) -> None:
    keys, identities = [], []
    for root in template:
        files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
        assert files
        keys += [p for p in files if p.stat().st_size < 1 << 20 and _PRIVATE.search(p.read_bytes())]
        identities += [p for p in files if any(p.match(pattern) for pattern in _IDENTITIES)]
        identities += [
            p
            for p in (root / "etc/machine-id", root / "var/lib/dbus/machine-id")
            if p.is_file() and p.read_text().strip() not in {"", "uninitialized"}
        ]
        # Ours is the template of a file that is rendered, and empty of keys.
        identities += [
            p for p in files if p.name == "authorized_keys" and "templates" not in p.parts
        ]
    assert keys == []
    assert identities == []


def test_template_has_no_file_that_raises_who_runs_it(template: tuple[Path, ...]) -> None:
    """Setuid, setgid. Of capabilities, only the one for which a daemon needs no root."""
    raised, capable = [], []
    for root in template:
        for path in root.rglob("*"):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                raised += [path] if mode & (stat.S_ISUID | stat.S_ISGID) else []
                capable += [path.name] if listing.capability(path) else []
    assert raised == []
    assert capable == ["arping"]


def test_dbus_needs_no_helper(template: tuple[Path, ...]) -> None:
    """Its own, which is setuid elsewhere, would start services that systemd does not."""
    services = [p for root in template for p in root.glob("usr/share/dbus-1/system-services/*")]
    assert services
    texts = {path.name: path.read_text() for path in services}
    started = {name for name, text in texts.items() if "\nSystemdService=" not in text}
    assert {name for name in started if "\nExec=/bin/false\n" not in texts[name]} == set()


# -- sandboxes ---------------------------------------------------------------------------------


def test_exposure_is_no_greater_than_it_was(lab: Lab) -> None:
    found = {}
    for unit in EXPOSURE:
        said = lab.vm.run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).text
        overall = re.search(r"exposure level for \S+: (\d+\.\d)", said)
        assert overall is not None, said[-500:]
        found[unit] = float(overall[1])
    assert {unit: level for unit, level in found.items() if level > EXPOSURE[unit]} == {}


def test_daemons_run_in_their_sandboxes(router: Router, lab: Lab) -> None:
    for unit in DAEMONS:
        script = (
            f"for pid in $(cat /sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs); do "
            "echo pid $pid; grep -E '^(NoNewPrivs|Seccomp|CapBnd)' /proc/$pid/status; "
            "grep '^Max core' /proc/$pid/limits; "
            "nsenter -t $pid -m touch /usr/written 2>&1; done; true"
        )
        said = lab.vm.run(["sh", "-c", script]).text
        count = said.count("pid ")
        assert count >= 1, unit
        assert len(re.findall(r"NoNewPrivs:\s+1", said)) == count, said
        assert len(re.findall(r"Seccomp:\s+2", said)) == count, said
        assert len(re.findall(r"Max core file size\s+0\s+0", said)) == count, said
        assert said.count("Read-only file system") == count, said
        for bounding in re.findall(r"CapBnd:\s+([0-9a-f]+)", said):
            assert not int(bounding, 16) & 1 << 16, f"{unit} may load modules"  # CAP_SYS_MODULE
            if unit != "sysvm-agent":
                assert not int(bounding, 16) & 1 << 21, f"{unit} may mount"  # CAP_SYS_ADMIN


def test_guests_daemons_see_no_secrets(router: Router, lab: Lab) -> None:
    """Their workers, as their own users."""
    for user, path in (
        ("haproxy", "/run/sysvm/current/front/server.pem"),
        ("www-data", "/run/sysvm/boot.json"),
        ("dnsmasq", "/var/lib/sysvm/state.json"),
    ):
        argv = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", "cat", path]
        denied = lab.vm.run(argv, check=False)
        allowed = lab.vm.run(["cat", path], check=False)
        assert (denied.returncode, allowed.returncode) == (1, 0), (user, path)


# -- what can be filled ------------------------------------------------------------------------


def test_a_chatty_daemon_is_cut_short_and_the_journal_bounded(lab: Lab) -> None:
    config = lab.vm.run(["systemd-analyze", "cat-config", "systemd/journald.conf"]).text
    assert "\nSystemMaxUse=48M" in config
    assert "\nStorage=persistent" in config
    argv = ["systemd-run", "--wait", "--quiet", "--unit=chatty", "seq", "40000"]
    lab.vm.run(argv, timeout=60)
    lab.vm.run(["journalctl", "--sync"])
    wrote = lab.vm.run(["journalctl", "--unit=chatty", "--no-pager", "--output=cat", "-q"]).text
    assert 1000 < len(wrote.splitlines()) < 20000
    # Others are heard all the same.
    lab.vm.run(["systemd-run", "--wait", "--quiet", "--unit=quiet", "echo", "still heard"])
    lab.vm.run(["journalctl", "--sync"])
    assert "still heard" in lab.vm.run(["journalctl", "--unit=quiet", "--no-pager"]).text


def test_nothing_is_logged_but_in_the_journal(router: Router, lab: Lab) -> None:
    found = lab.vm.run(["find", "/var/log", "-type", "f", "-size", "+0"]).text.split()
    own = ("/var/log/journal/", "/var/log/routerServiceMonitor", "/var/log/.routerServiceMonitor")
    assert [path for path in found if not path.startswith(own)] == []


# -- the hypervisor ----------------------------------------------------------------------------


def test_guest_tools_start_only_where_they_belong(lab: Lab) -> None:
    for unit in GUEST_TOOLS:
        argv = ["systemctl", "show", "--property=LoadState,ActiveState", f"{unit}.service"]
        assert set(lab.vm.run(argv).text.split()) == {"LoadState=loaded", "ActiveState=inactive"}
    assert lab.vm.run(["systemctl", "--failed", "--plain", "--no-legend"]).text.strip() == ""


def test_guest_agent_is_allowed_what_it_knows_and_no_more(lab: Lab) -> None:
    unit = lab.vm.run(["systemctl", "cat", "qemu-guest-agent.service"]).text
    listed = re.search(r"--allow-rpcs=(\S+)", unit)
    assert listed is not None
    allowed = set(listed[1].split(","))
    known = set(lab.vm.run(["qemu-ga", "--allow-rpcs=help"]).text.split())
    assert allowed <= known
    for command in (
        "guest-exec",
        "guest-file-read",
        "guest-set-user-password",
        "guest-fsfreeze-freeze",
    ):
        assert command in known
        assert command not in allowed


def test_chrony_takes_its_configuration_with_and_without_a_clock(lab: Lab) -> None:
    argv = ["chronyd", "-p", "-f", "/usr/lib/sysvm/chrony.conf"]
    without = lab.vm.run(argv).text
    assert "port 0" in without
    assert "refclock" not in without
    script = lab.vm.read("/usr/lib/sysvm/clock").decode()
    line = re.search(r'echo "(refclock [^"]*)"', script)
    assert line is not None
    lab.vm.put("/run/sysvm-clock/clock.conf", line[1].replace("${clock##*/}", "ptp0").encode())
    assert "refclock PHC /dev/ptp0" in lab.vm.run(argv).text
    lab.vm.run(["rm", "-r", "/run/sysvm-clock"])


def test_power_key_is_obeyed(lab: Lab) -> None:
    argv = [
        *("busctl", "--json=short", "get-property", "org.freedesktop.login1"),
        *("/org/freedesktop/login1", "org.freedesktop.login1.Manager", "HandlePowerKey"),
    ]
    assert json.loads(lab.vm.run(argv).text)["data"] == "poweroff"

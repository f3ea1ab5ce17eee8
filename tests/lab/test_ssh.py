"""SSH in the lab: who comes in, from where, and that its keys are this VM's own."""

import copy
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.system.run import Completed, run
from appliance.lab import Lab
from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from tests.lab.helpers import Document, Router, example, settle

ADDRESS, PORT = "169.254.10.2", 3922
HOST_KEY = "/var/lib/sysvm/ssh/ssh_host_ed25519_key"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of key pairs: `operator`, `other`, `rsa`."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client: apt-get install openssh-client")
    folder = tmp_path_factory.mktemp("keys")
    for name, options in {
        "operator": ["-t", "ed25519"],
        "other": ["-t", "ed25519"],
        "rsa": ["-t", "rsa", "-b", "2048"],
    }.items():
        argv = ["ssh-keygen", "-q", *options, "-N", "", "-C", name, "-f", str(folder / name)]
        run(argv, timeout=60)
    return folder


def public(keys: Path, name: str) -> str:
    return (keys / f"{name}.pub").read_text().strip()


Ssh = Callable[..., Completed]


@pytest.fixture(scope="module")
def ssh(lab: Lab, keys: Path) -> Ssh:
    """Log in from the management's host with a key; what came of it."""

    def log_in(key: str, *command: str, options: tuple[str, ...] = ()) -> Completed:
        return lab.manager.run(_argv(keys, key, *options, f"root@{ADDRESS}", *command), check=False)

    return log_in


def _argv(keys: Path, key: str, *rest: str) -> list[str]:
    asked = {
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": str(keys / "known_hosts"),
        "LogLevel": "INFO",
    }
    options = itertools.chain.from_iterable(("-o", f"{k}={v}") for k, v in asked.items())
    return ["ssh", "-F", "/dev/null", "-p", str(PORT), "-i", str(keys / key), *options, *rest]


@pytest.fixture(scope="module")
def router(lab: Lab, keys: Path) -> Router:
    """The example's router, with an operator's keys."""
    router = Router(lab)
    document: Document = copy.deepcopy(example())
    document["ssh"] = {"authorized_keys": [public(keys, "operator"), public(keys, "rsa")]}
    router.push(document)
    wait_until(lambda: lab.manager.reaches(ADDRESS, PORT), 20, "SSH")
    return router


@pytest.mark.parametrize("key", ["operator", "rsa"])
def test_operator_comes_in_as_root(router: Router, ssh: Ssh, key: str) -> None:
    assert ssh(key, "id -u; hostname").text.split() == ["0", "r-1-vm"]


def test_another_key_does_not(router: Router, ssh: Ssh) -> None:
    answer = ssh("other", "true")
    assert answer.returncode == 255
    assert "Permission denied (publickey)" in answer.stderr.decode()


@pytest.mark.parametrize("how", ["password", "keyboard-interactive"])
def test_no_password_is_asked_for(router: Router, ssh: Ssh, how: str) -> None:
    answer = ssh("other", "true", options=("-o", f"PreferredAuthentications={how}"))
    assert "Permission denied (publickey)" in answer.stderr.decode()


def test_nobody_but_root_has_an_account(router: Router, lab: Lab, keys: Path) -> None:
    answer = lab.manager.run(_argv(keys, "operator", f"daemon@{ADDRESS}", "true"), check=False)
    assert "Permission denied" in answer.stderr.decode()


def test_nothing_is_forwarded(router: Router, ssh: Ssh) -> None:
    forward = ("-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:9999:127.0.0.1:80")
    answer = ssh("operator", "true", options=forward)
    assert answer.returncode == 255
    assert "forwarding failed" in answer.stderr.decode()
    assert ssh("operator", "true").returncode == 0
    through = ssh("operator", options=("-W", "127.0.0.1:8443"))
    assert through.returncode == 255


@pytest.mark.parametrize(
    "old",
    [
        ("-c", "aes128-cbc"),
        ("-c", "aes256-ctr", "-o", "MACs=hmac-sha1"),
        ("-o", "KexAlgorithms=diffie-hellman-group14-sha1"),
        ("-o", "HostKeyAlgorithms=ssh-rsa"),
    ],
)
def test_old_algorithms_are_refused(router: Router, ssh: Ssh, old: tuple[str, ...]) -> None:
    answer = ssh("operator", "true", options=old)
    assert "no matching" in answer.stderr.decode()


def test_it_listens_and_is_reachable_on_the_control_network_only(router: Router, lab: Lab) -> None:
    listening = lab.vm.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).text
    port = f"{PORT:04X}"
    words = [line.split() for line in listening.splitlines()]
    local = [w[1] for w in words if w[0] != "sl" and w[3] == "0A" and w[1].endswith(f":{port}")]
    assert local == ["020AFEA9:" + port]  # 169.254.10.2, as the kernel writes it, and no other

    guest = lab.guests["vm1"]
    settle(guest, "10.1.1.10")
    outside: tuple[tuple[Node, tuple[str, ...]], ...] = (
        (guest, ("10.1.1.1", "203.0.113.10", ADDRESS)),
        (lab.internet, ("203.0.113.10",)),
    )
    for node, addresses in outside:
        for address in addresses:
            assert not node.reaches(address, PORT, timeout=0.5), (node.name, address)
            assert not node.reaches(address, 22, timeout=0.5), (node.name, address)
    assert not lab.manager.reaches(ADDRESS, 22, timeout=0.5)
    assert lab.manager.reaches(ADDRESS, PORT)


def test_a_session_outlives_another_push_and_a_removed_key_does_not_come_in(
    router: Router, lab: Lab, ssh: Ssh, keys: Path
) -> None:
    argv = _argv(keys, "operator", f"root@{ADDRESS}", "echo in; cat")
    with lab.manager.popen(argv, stdin=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        assert session.stdout.readline() == b"in\n"
        with router.changed({"ssh": {"authorized_keys": [public(keys, "other")]}}):
            assert ssh("operator", "true").returncode == 255
            assert ssh("other", "true").returncode == 0
            session.stdin.write(b"still here\n")
            session.stdin.flush()
            assert session.stdout.readline() == b"still here\n"
        session.stdin.close()
        assert session.wait(10) == 0
    assert ssh("operator", "true").returncode == 0
    assert ssh("other", "true").returncode == 255


def test_without_keys_it_is_closed_and_opens_again(router: Router, lab: Lab) -> None:
    with router.changed({"ssh": {"authorized_keys": []}}):
        assert not lab.manager.reaches(ADDRESS, PORT, timeout=0.5)
        shown = lab.vm.run(["systemctl", "is-active", "sysvm-ssh.service"], check=False)
        assert shown.text.strip() == "inactive"
    wait_until(lambda: lab.manager.reaches(ADDRESS, PORT), 20, "SSH again")
    assert router.drift() == []


def test_image_without_sshd_takes_the_same_document(router: Router, lab: Lab) -> None:
    lab.vm.run(["mv", "/usr/sbin/sshd", "/usr/sbin/sshd.away"])
    try:
        with router.changed({"ssh": {"authorized_keys": []}}):
            pass
        assert router.drift() == []
        shown = lab.vm.run(["systemctl", "is-active", "sysvm-ssh.service"], check=False)
        assert shown.text.strip() == "inactive"
    finally:
        lab.vm.run(["mv", "/usr/sbin/sshd.away", "/usr/sbin/sshd"])
        lab.vm.run(["systemctl", "start", "sysvm-ssh.service"])


def test_host_key_is_kept_over_a_reboot_and_half_a_key_is_made_anew(
    router: Router, lab: Lab, ssh: Ssh, keys: Path
) -> None:
    before = lab.vm.read(HOST_KEY)
    lab.vm.run(["truncate", "-s", "0", "/var/lib/sysvm/ssh/ssh_host_ecdsa_key"])
    lab.vm.reboot()
    lab.vm.wait_ready()
    wait_until(lambda: ssh("operator", "true").returncode == 0, 20, "SSH after the reboot")
    assert lab.vm.read(HOST_KEY) == before
    found = lab.vm.run(["stat", "-c", "%n %a %U", "-t", "/var/lib/sysvm/ssh"]).text
    assert found.split()[0] == "/var/lib/sysvm/ssh"
    told = lab.vm.run(["ssh-keygen", "-l", "-f", "/var/lib/sysvm/ssh/ssh_host_ecdsa_key"]).text
    assert "256 SHA256:" in told


def test_boot_configuration_lets_in_before_the_first_push(
    router: Router, boot_lab: Callable[[], Lab], keys: Path
) -> None:
    other, lab = router.lab, boot_lab()
    first = lab.vm.run(["ls", "/var/lib/sysvm"]).text.split()
    assert "ssh" not in first  # nobody's key: no sshd, and so no host keys either
    lab.vm.set_boot({**lab.vm.boot_configuration(), "authorized_keys": [public(keys, "operator")]})
    lab.vm.run(["rm", "-r", "/var/lib/sysvm/state.json"])
    lab.vm.reboot()
    wait_until(lambda: lab.manager.reaches(ADDRESS, PORT), 20, "SSH")
    argv = _argv(keys, "operator", f"root@{ADDRESS}", "id -u")
    argv[argv.index("-i") : argv.index("-i")] = ["-o", "UserKnownHostsFile=/dev/null"]
    assert lab.manager.run(argv).text.strip() == "0"
    assert lab.vm.read(HOST_KEY) != other.vm.read(HOST_KEY)  # of the same template

import base64
import json
import os
import pty
import threading
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.document.boot_source import LARGEST, Form, Found, Source
from agent.engine.model import Problem
from agent.system import boot_channels
from agent.system.boot_channels import Places, answer, look, receive
from tests.unit.document.test_boot_source import kvp

JSON = b'{"role": "router"}'
NOBODY = "none"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A machine on which nobody has handed in anything."""
    for folder in ("credentials", "mnt"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cmdline").write_bytes(b"root=LABEL=root ro quiet\n")
    return Places(
        credentials=tmp_path / "credentials",
        mount_point=tmp_path / "mnt",
        kernel=tmp_path / "cmdline",
        port=tmp_path / "port",
        from_port=tmp_path / "from-port",
        guest_agent=tmp_path / "cloud/cmdline",
        kvp_pool=tmp_path / "kvp_pool_0",
        blkid=tool(tmp_path, "blkid", "exit 2"),
        rpctool=tool(tmp_path, "rpctool", "echo No value found >&2; exit 1"),
        xenstore_read=tool(tmp_path, "xenstore-read", "exit 1"),
    )


def tool(folder: Path, name: str, does: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


def said(found: Found | None) -> str:
    assert found is not None
    assert found.problem is not None
    return found.problem.message


@pytest.mark.parametrize("hypervisor", ["kvm", "qemu", "vmware", "xen", "microsoft", "none"])
def test_nothing_anywhere_is_nothing(places: Places, hypervisor: str) -> None:
    assert look(places, hypervisor) is None


def test_tools_that_are_not_there_have_nothing(places: Places) -> None:
    bare = replace(places, blkid="/nowhere", rpctool="/nowhere", xenstore_read="/nowhere")
    for hypervisor in ("vmware", "xen", "kvm"):
        assert look(bare, hypervisor) is None


def test_credential(places: Places) -> None:
    (places.credentials / "sysvm.boot").write_bytes(JSON)
    assert look(places, "kvm") == Found(Source.CREDENTIAL, Form.JSON, JSON)


def test_kernel_command_line_of_a_vm_but_not_that_of_a_containers_host(places: Places) -> None:
    encoded = base64.urlsafe_b64encode(JSON)
    places.kernel.write_bytes(b"ro sysvm.boot=" + encoded + b"\n")
    assert look(places, "qemu") == Found(Source.KERNEL, Form.ENCODED, encoded)
    assert look(places, "systemd-nspawn") is None


@pytest.mark.parametrize(
    ("content", "form"), [(JSON, Form.JSON), (b"template=domP type=router", Form.CLOUDSTACK)]
)
def test_what_the_guest_agent_wrote(places: Places, content: bytes, form: Form) -> None:
    places.guest_agent.parent.mkdir()
    places.guest_agent.write_bytes(b"\n")
    assert look(places, "kvm") is None
    places.guest_agent.write_bytes(b" " + content + b"\n")
    assert look(places, "kvm") == Found(Source.GUEST_AGENT, form, content)


def test_vmware(places: Places, tmp_path: Path) -> None:
    script = 'case "$1" in "info-get guestinfo.sysvm.boot") echo "{}";; *) exit 1;; esac'
    ours = replace(places, rpctool=tool(tmp_path, "rpc1", script))
    assert look(ours, "vmware") == Found(Source.VMWARE, Form.ENCODED, b"{}")
    assert look(ours, "kvm") is None
    script = 'case "$1" in machine.id.get) echo template=domP type=router;; *) exit 1;; esac'
    theirs = replace(places, rpctool=tool(tmp_path, "rpc2", script))
    found = Found(Source.VMWARE, Form.CLOUDSTACK, b"template=domP type=router")
    assert look(theirs, "vmware") == found


def test_xenstore(places: Places, tmp_path: Path) -> None:
    script = '[ "$1" = vm-data/sysvm/boot ] && echo "{}"'
    ours = replace(places, xenstore_read=tool(tmp_path, "xs1", script))
    assert look(ours, "xen") == Found(Source.XENSTORE, Form.ENCODED, b"{}")
    script = '[ "$1" = vm-data/cloudstack/init ] && echo template=domP%type=router'
    theirs = replace(places, xenstore_read=tool(tmp_path, "xs2", script))
    found = Found(Source.XENSTORE, Form.CLOUDSTACK, b"template=domP type=router")
    assert look(theirs, "xen") == found
    assert look(theirs, "vmware") is None


def test_hyper_v(places: Places) -> None:
    places.kvp_pool.write_bytes(kvp((b"cloudstack-vm-userdata", b"template=domP%type=router")))
    found = Found(Source.HYPER_V, Form.CLOUDSTACK, b"template=domP type=router")
    assert look(places, "microsoft") == found
    assert look(places, "kvm") is None
    places.kvp_pool.write_bytes(kvp((b"x", b"y"), (b"sysvm.boot", b"{}")))
    assert look(places, "microsoft") == Found(Source.HYPER_V, Form.ENCODED, b"{}")


def test_the_order_of_the_channels(places: Places, tmp_path: Path) -> None:
    """Each is put before those that were there, and wins."""
    places.kvp_pool.write_bytes(kvp((b"sysvm.boot", b"{}")))
    found = look(places, "microsoft")
    assert found is not None
    order = [found.source]
    places.guest_agent.parent.mkdir()
    for path, content in (
        (places.guest_agent, JSON),
        (places.from_port, JSON),
        (places.kernel, b"sysvm.boot=e30"),
        (places.credentials / "sysvm.boot", JSON),
    ):
        path.write_bytes(content)
        found = look(places, "microsoft")
        assert found is not None
        order.append(found.source)
    assert order == [
        Source.HYPER_V,
        Source.GUEST_AGENT,
        Source.VIRTIO_SERIAL,
        Source.KERNEL,
        Source.CREDENTIAL,
    ]


def test_what_is_too_large_is_broken_not_absent(places: Places) -> None:
    (places.credentials / "sysvm.boot").write_bytes(b"x" * (LARGEST + 1))
    assert said(look(places, "kvm")) == f"is larger than {LARGEST} bytes"


def test_what_is_no_file_is_broken_and_does_not_hang(places: Places) -> None:
    os.mkfifo(places.credentials / "sysvm.boot")
    assert said(look(places, "kvm")) == "sysvm.boot is not a file"


def test_a_drive_that_cannot_be_mounted_is_broken(places: Places, tmp_path: Path) -> None:
    labelled = replace(places, blkid=tool(tmp_path, "blkid1", "echo /dev/no-such-device"))
    assert said(look(labelled, "kvm")).startswith("the drive labelled SYSVM cannot be mounted")


# -- the port: a pseudo-terminal stands for it, for it can be read and written at both ends --------


@pytest.fixture
def port() -> Iterator[tuple[Path, int]]:
    host, guest = pty.openpty()
    tty.setraw(guest)
    path = Path(os.ttyname(guest))
    yield path, host
    os.close(guest)
    os.close(host)


def test_the_host_sends_a_line_and_is_answered(port: tuple[Path, int]) -> None:
    path, host = port
    os.write(host, JSON + b"\n")
    assert receive(path, 5) == JSON
    answer(path, ())
    assert json.loads(os.read(host, 10_000)) == {"result": "accepted", "problems": []}
    answer(path, (Problem("/role", "is missing", "one of them"),))
    assert json.loads(os.read(host, 10_000)) == {
        "result": "refused",
        "problems": [{"path": "/role", "message": "is missing", "hint": "one of them"}],
    }


def test_a_line_may_come_in_pieces(port: tuple[Path, int]) -> None:
    path, host = port
    pieces = [b"\n", JSON[:5], JSON[5:], b"\n"]
    sender = threading.Thread(target=lambda: [os.write(host, piece) for piece in pieces])
    sender.start()
    assert receive(path, 5) == JSON
    sender.join()


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (b'{"said": "again"}\n{"said": "again"}\n', b'{"said": "again"}'),
        (b'{"schema": 1}\n' + JSON + b"\n", JSON),
        (JSON + b'\n{"cut o', JSON),
        (b'{\n"role":\n"router"}\n', b'{\n"role":\n"router"}'),
    ],
)
def test_the_last_of_several_lines_is_taken(
    port: tuple[Path, int], sent: bytes, taken: bytes
) -> None:
    path, host = port
    os.write(host, sent)
    assert receive(path, 5) == taken


def test_a_silent_host_is_not_waited_for(port: tuple[Path, int]) -> None:
    assert receive(port[0], 0) is None
    assert receive(Path("/nowhere/port"), 5) is None


def test_half_a_line_is_none(port: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_channels, "_LINE_TIMEOUT", 0.05)
    path, host = port
    os.write(host, JSON[:5])
    assert receive(path, 0) is None


def test_a_line_without_end_is_cut_off(port: tuple[Path, int]) -> None:
    path, host = port
    chunk = b"x" * 4096

    def pour() -> None:
        for _ in range(2 + LARGEST // len(chunk)):
            os.write(host, chunk)

    sender = threading.Thread(target=pour, daemon=True)
    sender.start()
    data = receive(path, 5)
    assert data is not None
    assert len(data) > LARGEST

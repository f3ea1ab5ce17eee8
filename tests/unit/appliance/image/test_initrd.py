"""The initrd: an archive that the kernel reads, with the drivers of disks."""

import lzma
import re
from pathlib import Path

from appliance import data
from appliance.image import initrd, kernel, recipe


def _read(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """An independent reader of cpio's newc format."""
    found: dict[str, tuple[int, bytes]] = {}
    place = 0
    while True:
        head = archive[place : place + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[place + 110 : place + 110 + length - 1].decode()
        start = place + (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        place = start + (size + 3) // 4 * 4


def test_an_archive_reads_back() -> None:
    entries = [
        initrd.Entry("dev", 0o040755),
        initrd.Entry("init", 0o100755, b"#!/bin/sh\n"),
        initrd.Entry("bin/sh", 0o120777, b"busybox"),
    ]
    assert _read(initrd.archive(entries)) == {
        "dev": (0o040755, b""),
        "init": (0o100755, b"#!/bin/sh\n"),
        "bin/sh": (0o120777, b"busybox"),
    }


def test_the_order_of_members_does_not_change_the_archive() -> None:
    entries = [initrd.Entry("a", 0o100644, b"1"), initrd.Entry("b", 0o100644, b"22")]
    assert initrd.archive(entries) == initrd.archive(reversed(entries))


def test_modules_come_unpacked_with_their_dependencies_and_aliases(tmp_path: Path) -> None:
    folder = tmp_path / kernel.MODULES / "6.12"
    (folder / "kernel/fs").mkdir(parents=True)
    (folder / "modules.builtin").touch()
    for name in ("ext4", "jbd2", "other"):
        (folder / f"kernel/fs/{name}.ko.xz").write_bytes(lzma.compress(name.encode()))
    (folder / "modules.dep").write_text(
        "kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz\n"
        "kernel/fs/jbd2.ko.xz:\n"
        "kernel/fs/other.ko.xz:\n"
    )
    (folder / "modules.alias").write_text("# x\nalias fs-ext4 ext4\nalias fs-other other\n")
    found = _read(initrd.archive(initrd.modules(tmp_path, ["ext4"])))
    base = "lib/modules/6.12"
    assert found[f"{base}/kernel/fs/ext4.ko"][1] == b"ext4"
    assert found[f"{base}/kernel/fs/jbd2.ko"][1] == b"jbd2"
    assert f"{base}/kernel/fs/other.ko" not in found
    assert found[f"{base}/modules.dep"][1] == (
        b"kernel/fs/ext4.ko: kernel/fs/jbd2.ko\nkernel/fs/jbd2.ko:\n"
    )
    assert found[f"{base}/modules.alias"][1] == b"alias fs-ext4 ext4\n"
    assert found[f"{base}/kernel/fs"][0] == 0o040755


def test_the_script_never_ends_in_a_shell() -> None:
    text = (data.recipes() / "elements/sysvm-boot/initrd/init").read_text()
    assert not re.search(r"^\s*(exec )?(sh|ash|/bin/sh)\b", text, re.MULTILINE)
    assert text.rstrip().endswith('exec switch_root /root "$init"')


def test_what_the_initrd_loads_the_template_keeps() -> None:
    wanted = recipe.listed(data.recipes() / "elements/sysvm-boot/initrd/modules")
    kept = recipe.read().modules
    needs: dict[str, tuple[str, ...]] = {
        f"kernel/{folder}/{name}.ko.xz": ()
        for name in wanted
        for folder in ("crypto", "arch/x86/crypto", "drivers/hv", "fs")
    }
    names = {kernel.module_name(path) for path in kernel.kept(kept, needs)}
    assert {name.replace("-", "_") for name in wanted} <= names

import lzma
import stat

from appliance.qemu.initramfs import Entry, archive


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """A newc archive, read as the kernel reads it: mode and content by path."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        assert data[at : at + 6] == b"070701"
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        at += -(-(110 + length) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size])
        at += -(-size // 4) * 4


def test_archive_holds_what_was_put_in() -> None:
    put = [
        Entry("bin", stat.S_IFDIR | 0o755),
        Entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        Entry("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
    ]
    read = entries(archive(put))
    assert read == {entry.path: (entry.mode, entry.content) for entry in put}


def test_archive_is_the_same_each_time() -> None:
    put = [Entry("init", stat.S_IFREG | 0o755, lzma.compress(b"x"))]
    assert archive(put) == archive(put)

"""Which operators' checks are run, and how their ends are read; the lab runs them."""

import os
from pathlib import Path

import pytest

from agent.monitor.checks import CannotTell
from agent.system.custom_checks import OUTPUT, find, outcome
from agent.system.run import Completed

ROOT = os.geteuid() == 0


def put(folder: Path, name: str, mode: int = 0o755) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(mode)


def test_executables_of_both_folders_are_found_the_images_first(tmp_path: Path) -> None:
    image, state = tmp_path / "image", tmp_path / "state"
    for folder, name in ((image, "a"), (state, "a"), (state, "b")):
        put(folder, name)
    put(state, "README", 0o644)
    put(state, ".hidden")
    found = find((image, state, tmp_path / "absent"))
    assert [one.name for one in found] == ["a", "b"]
    if ROOT:
        assert [one.refused for one in found] == ["", ""]
    else:
        assert all("is not root's" in one.refused for one in found)


def test_what_others_may_write_what_is_no_file_and_what_has_no_name_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checks"
    put(folder, "loose", 0o775)
    put(folder, "two words")
    put(folder, "cpu")
    (folder / "link").symlink_to("/bin/true")
    found = {one.name: one.refused for one in find((folder,), taken=("cpu",))}
    assert "is called cpu" in found["cpu.custom"]
    assert "letters" in found["two words"]
    assert "not a file" in found["link"]
    assert "others than root" in found["loose"] if ROOT else found["loose"]


@pytest.mark.skipif(not ROOT, reason="only root's files are run")
def test_a_folder_that_others_may_write_is_refused_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checks"
    put(folder, "fine")
    folder.chmod(0o777)
    (one,) = find((folder,))
    assert "others than root may write" in one.refused


SAYS = "Running as unit: sysvm-check-x.service; invocation ID: afe484\nFinished with result: {}\n"
STATUS = "Main processes terminated with: code={}, status={}\n"


@pytest.mark.parametrize(
    ("result", "status", "output", "code", "limit"),
    [
        ("success", ("exited", "0/SUCCESS"), b"well", 0, ""),
        ("exit-code", ("exited", "3/NOTIMPLEMENTED"), b"?", 3, ""),
        ("exit-code", ("exited", "203/EXEC"), b"", 203, ""),
        ("timeout", ("killed", "15/TERM"), b"", None, "did not end within"),
        ("oom-kill", ("killed", "9/KILL"), b"", None, "memory"),
        ("signal", ("killed", "25/XFSZ"), b"x", None, "wrote more"),
        ("exit-code", ("exited", "1/FAILURE"), b"x" * OUTPUT, 1, "wrote more"),
        ("signal", ("killed", "11/SEGV"), b"", None, "killed by signal 11"),
    ],
)
def test_ends(
    result: str, status: tuple[str, str], output: bytes, code: int | None, limit: str
) -> None:
    found = outcome(
        Completed((), 1, b"", (SAYS.format(result) + STATUS.format(*status)).encode()), output
    )
    assert found.code == code
    assert limit in found.limit
    assert bool(found.limit) is bool(limit)


def test_one_that_was_never_begun_is_not_known() -> None:
    with pytest.raises(CannotTell, match="Failed to start"):
        outcome(Completed((), 1, b"", b"Failed to start transient service unit: no bus"), b"")

"""What the template is made from: lists, locks, mirrors."""

import re
from pathlib import Path

import pytest

from appliance import data
from appliance.image import archive, base, recipe, wheels

_LISTS = (
    *(f"elements/{path.parent.name}/{path.name}" for path in recipe.list_files()),
    *("builder-packages", "python-packages"),
)


def test_a_list_file_has_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# head\n\none   # why\ntwo>=3  # why\n")
    assert base.listed(path) == ("one", "two>=3")


@pytest.mark.parametrize("name", _LISTS)
def test_every_entry_of_a_list_says_why(name: str) -> None:
    for line in (data.recipes() / name).read_text().splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"\S+ +# \S.*", line), line


def test_every_python_package_is_locked_by_hash() -> None:
    lines = wheels.lock_file().read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+ --hash=sha256:[0-9a-f]{64}", pin) for pin in pins)
    locked = {pin.partition("==")[0] for pin in pins}
    wanted = base.listed(data.recipes() / "python-packages")
    assert {re.split(r"[<>=]", entry)[0] for entry in wanted} <= locked


def test_the_default_mirrors_are_the_tools_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYSVM_MIRROR", raising=False)
    assert archive.mirrors() == ()


def test_a_mirror_of_ones_own_has_security_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSVM_MIRROR", "http://mirror.test/debian/")
    monkeypatch.delenv("SYSVM_SECURITY_MIRROR", raising=False)
    assert archive.mirrors() == (
        "deb http://mirror.test/debian trixie main",
        "deb http://mirror.test/debian trixie-updates main",
        "deb http://mirror.test/debian-security trixie-security main",
    )


def test_an_empty_security_mirror_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSVM_MIRROR", "http://mirror.test/debian")
    monkeypatch.setenv("SYSVM_SECURITY_MIRROR", "")
    assert not any("security" in line for line in archive.mirrors())


def test_the_preset_enables_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    base.preset(tmp_path, ("one.service",))
    text = (tmp_path / "usr/lib/systemd/system-preset/00-sysvm.preset").read_text()
    assert text == "enable one.service\ndisable *\n"


@pytest.mark.parametrize(
    ("file", "pin"),
    [
        ("flask-3.1.3-py3-none-any.whl", "flask==3.1.3"),
        ("typing_extensions-4.16.0-py3-none-any.whl", "typing-extensions==4.16.0"),
        ("python_iptables-1.2.0.tar.gz", "python-iptables==1.2.0"),
        ("x-1.0-cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", "x==1.0"),
    ],
)
def test_a_downloaded_file_names_its_pin(tmp_path: Path, file: str, pin: str) -> None:
    (tmp_path / file).write_bytes(b"")
    assert wheels.pin(tmp_path / file).partition(" ")[0] == pin


def test_no_file_raises_who_runs_it_and_everything_else_stays(tmp_path: Path) -> None:
    wanted = {"su": 0o755, "helper": 0o754, "chage": 0o755, "cat": 0o755, "secret": 0o600}
    had = {**wanted, "su": 0o4755, "helper": 0o4754, "chage": 0o2755}
    folder = tmp_path / "usr/bin"
    folder.mkdir(parents=True)
    for name, mode in had.items():
        (folder / name).write_text(name)
        (folder / name).chmod(mode)
    (folder / "sudo").symlink_to("su")
    shared = tmp_path / "var/mail"
    shared.mkdir(parents=True)
    shared.chmod(0o2775)  # of a folder, it says whose group new files have
    base.strip_privileges(tmp_path)
    assert {path.name: path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {
        **wanted,
        "sudo": 0o755,
    }
    assert shared.stat().st_mode & 0o7777 == 0o2775

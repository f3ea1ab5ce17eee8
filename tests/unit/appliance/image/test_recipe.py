"""A recipe: the union of what its elements say, in DIB's own format."""

from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.image import recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, files in {
        "root": {"package-list": "systemd # PID 1\nkmod # modules\n", "left-out": "+/a/b # x\n"},
        "more": {"package-list": "kmod # modules\ndnsmasq # DHCP\n", "element-deps": "deep\n"},
        "deep": {"masked-units": "a.timer # no\n", "left-out": "/a/* # y\n"},
        "less": {"package-list-without": "dnsmasq # not here\n"},
        "files": {"package-list-bare": "novnc # its files\n"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    return tmp_path


def _recipe(folder: Path, *elements: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"- imagename: some\n  elements: [{', '.join(elements)}]\n")
    return path


def test_packages_are_the_union_of_all_elements(folder: Path) -> None:
    read = recipe.read(_recipe(folder, "root", "more"), elements_path=[folder])
    assert read.name == "some"
    assert read.packages == ("dnsmasq", "kmod", "systemd")
    assert read.masked_units == ("a.timer",)


def test_an_element_brings_those_that_it_depends_on_before_itself(folder: Path) -> None:
    read = recipe.read(_recipe(folder, "root", "more"), elements_path=[folder])
    assert [path.name for path in read.elements] == ["root", "deep", "more"]


def test_an_element_can_take_packages_out(folder: Path) -> None:
    path = _recipe(folder, "root", "more", "less")
    assert recipe.read(path, elements_path=[folder]).packages == ("kmod", "systemd")


def test_a_package_of_which_the_files_are_wanted_is_none_of_the_others(folder: Path) -> None:
    read = recipe.read(_recipe(folder, "root", "files"), elements_path=[folder])
    assert read.bare == ("novnc",)
    assert read.packages == ("kmod", "systemd")
    assert recipe.read().bare == ("novnc",)


def test_an_exception_comes_after_the_rule_that_it_is_of(folder: Path) -> None:
    read = recipe.read(_recipe(folder, "root", "deep"), elements_path=[folder])
    assert read.left_out == ("/a/*", "+/a/b")


def test_packages_and_elements_of_the_command_line_are_added(folder: Path) -> None:
    path = _recipe(folder, "root")
    read = recipe.read(path, elements=["more"], elements_path=[folder], packages=["nano"])
    assert "nano" in read.packages
    assert "dnsmasq" in read.packages
    assert read.extra_elements == ("more",)


def test_an_unknown_element_is_refused(folder: Path) -> None:
    with pytest.raises(ApplianceError, match="no element nothing"):
        recipe.read(_recipe(folder, "root", "nothing"), elements_path=[folder])


def test_an_element_of_dibs_own_is_taken_and_says_nothing(folder: Path) -> None:
    read = recipe.read(_recipe(folder, "root", "package-installs"), elements_path=[folder])
    assert [path.name for path in read.elements] == ["root"]


@pytest.mark.parametrize("text", ["", "- imagename: x\n", "{", "- elements: [a]\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ApplianceError):
        recipe.read(path)


def test_without_ssh_no_server_is_installed() -> None:
    assert "openssh-server" in recipe.read().packages
    assert "openssh-server" not in recipe.read(ssh=False).packages


def test_in_a_hook_the_recipe_is_what_dib_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELEMENTS_PATH", f"{folder}:/nowhere")
    monkeypatch.setenv("IMAGE_ELEMENT", "more root package-installs")
    monkeypatch.setenv("SYSVM_PACKAGES", "nano")
    read = recipe.from_environment()
    assert read.packages == ("dnsmasq", "kmod", "nano", "systemd")


def test_the_order_of_elements_does_not_change_the_template(folder: Path) -> None:
    one = recipe.read(_recipe(folder, "root", "more"), elements_path=[folder]).lists
    other = recipe.read(_recipe(folder, "more", "root"), elements_path=[folder]).lists
    assert one == other


def test_every_element_has_a_readme() -> None:
    elements = {path.parent for path in recipe.list_files()}
    assert elements
    assert all((path / "README.md").exists() for path in elements)

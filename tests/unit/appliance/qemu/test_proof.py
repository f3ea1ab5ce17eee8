import re

from appliance.qemu import proof
from appliance.qemu.cases.check import Check, check


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in proof.CASES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)


def test_short_form_boots_pushes_serves_resets_and_pulls_the_plug() -> None:
    names = [case.name for case in proof.chosen(short=True)]
    assert names == ["power-on", "serve", "reset", "power-cut"]


def test_whole_form_has_every_case_but_what_others_include() -> None:
    names = {case.name for case in proof.chosen(short=False)}
    assert names == {case.name for case in proof.CASES} - {"power-cut"}


def test_other_kinds_of_machine_are_booted_pushed_to_and_reset() -> None:
    names = {case.name for case in proof.chosen(short=False, first=False)}
    assert {"power-on", "serve", "reset", "power-button"} <= names
    assert "power-cuts-before" not in names


def test_check_keeps_what_was_seen_only_where_it_does_not_hold() -> None:
    assert check("holds", [1], "seen").seen == ""
    assert check("does not", [], "seen") == Check("does not", False, "seen")  # noqa: FBT003

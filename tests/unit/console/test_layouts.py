"""The page's keyboards: each character is where X's tables have it, and all of ASCII is there."""

import ctypes
import ctypes.util
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.document.console_session import GuestKeyboard

PAGE = Path(__file__).parents[3] / "agent/console/page"
XKBCOMP = shutil.which("xkbcomp")
XKBCOMMON = ctypes.util.find_library("xkbcommon")
_NAMES = {"uk": "gb"}  # where X has another name
_KEYS = (
    "TLDE", *(f"AE{number:02}" for number in range(1, 14)),
    *(f"AD{number:02}" for number in range(1, 13)), *(f"AC{number:02}" for number in range(1, 12)),
    "BKSL", "LSGT", *(f"AB{number:02}" for number in range(1, 12)),
)  # fmt: skip
_DEAD = {
    "grave": "\u0300", "acute": "\u0301", "circumflex": "\u0302", "tilde": "\u0303",
    "breve": "\u0306", "abovedot": "\u0307", "diaeresis": "\u0308", "abovering": "\u030a",
    "doubleacute": "\u030b", "caron": "\u030c", "cedilla": "\u0327", "ogonek": "\u0328",
}  # fmt: skip
_ALONE = {"\u0300": "`", "\u0302": "^", "\u0303": "~"}


def layouts() -> Mapping[str, list[str]]:
    """The page's tables."""
    text = (PAGE / "layouts.js").read_text()
    found = {}
    for name, body in re.findall(r"^    (\w+): \{\n(.*?)^    \},$", text, re.DOTALL | re.MULTILINE):
        rows = re.search(r"levels: \[(.*?)\n        \]", body, re.DOTALL)
        assert rows is not None
        found[name] = json.loads(f"[{rows[1].strip().rstrip(',')}]")
    return found


LAYOUTS = layouts()


def test_what_is_pushed_and_what_the_page_has_are_the_same() -> None:
    assert set(LAYOUTS) == {one.value for one in GuestKeyboard}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_of_ascii_can_be_typed(name: str) -> None:
    levels = LAYOUTS[name]
    assert [len(row) for row in levels] == [len(_KEYS)] * 4
    made = set("".join(levels))
    made |= {alone for mark, alone in _ALONE.items() if mark in made}
    assert {chr(code) for code in range(0x20, 0x7F)} <= made


@pytest.mark.skipif(
    XKBCOMP is None or XKBCOMMON is None, reason="xkbcomp or libxkbcommon is not installed"
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_character_is_where_x_has_it(name: str) -> None:
    theirs = symbols(_NAMES.get(name, name))
    for level, row in enumerate(LAYOUTS[name]):
        for key, character in zip(_KEYS, row, strict=True):
            if character != " ":
                made = character_of(theirs[key][level])
                assert made == character, (key, level)


def symbols(layout: str) -> Mapping[str, list[str]]:
    """The names of what each key makes, level by level."""
    keymap = (
        'xkb_keymap { xkb_keycodes { include "evdev+aliases(qwerty)" };'
        'xkb_types { include "complete" }; xkb_compat { include "complete" };'
        f'xkb_symbols {{ include "pc+{layout}" }}; }};'
    )
    assert XKBCOMP is not None
    text = subprocess.run(
        (XKBCOMP, "-w", "0", "-xkb", "-", "-"),
        input=keymap,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    found = {}
    for key, body in re.findall(r"key <(\w+)> \{(.*?)\};", text, re.DOTALL):
        if groups := re.findall(r"\[([^\]]*)\]", re.sub(r"\w+\[Group1\]=", "", body)):
            found[key] = [symbol.strip() for symbol in groups[0].split(",")]
    return found


def character_of(symbol: str) -> str:
    """What a symbol makes, a dead key as its combining mark; nothing for what makes none."""
    if symbol.startswith("dead_"):
        return _DEAD.get(symbol.removeprefix("dead_"), "")
    xkb = ctypes.CDLL(XKBCOMMON)
    number = xkb.xkb_keysym_from_name(symbol.encode(), 0)
    return chr(xkb.xkb_keysym_to_utf32(number))

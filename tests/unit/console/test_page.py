"""What is around the screen: keyboards, typed text, the clipboard, special keys, policy shown."""

import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.chromium import Chromium
from tests.unit.console.conftest import link, opened, state
from tests.unit.console.rig import Proxy, Screen, reloaded

SHIFT, ALT_R, CONTROL, ALT, DELETE, F2, TAB, SUPER = (
    0xFFE1, 0xFFEA, 0xFFE3, 0xFFE9, 0xFFFF, 0xFFBF, 0xFF09, 0xFFEB,
)  # fmt: skip


def picture(browser: Chromium, name: str) -> None:
    """A screenshot on a desk and on a phone, where somebody wants to look at it."""
    if folder := os.environ.get("SYSVM_PICTURES"):
        for kind, width, height in (("desk", 1280, 800), ("phone", 390, 780)):
            browser.size(width, height)
            browser.picture(Path(folder) / f"{name}-{kind}.png")
        browser.ask("Emulation.clearDeviceMetricsOverride")


def type_text(browser: Chromium, text: str) -> str:
    """Have the page type a text; returns what it says of it."""
    if not browser.seen("typed"):
        browser.press("text-button")
    browser.value(f"document.getElementById('typed').value = {json.dumps(text)}")
    browser.press("type")
    wait_until(lambda: browser.text("typing").startswith(("Typed.", "Stopped.")), 120, "typed text")
    return browser.text("typing")


def choose(browser: Chromium, layout: str) -> None:
    browser.value(
        f"document.getElementById('layout').value = '{layout}';"
        "document.getElementById('layout').dispatchEvent(new Event('change'))"
    )


def guests_keyboard(desktop: int, layout: str) -> None:
    command = ("setxkbmap", "-display", f":{desktop}", layout)

    def is_set() -> bool:
        return subprocess.run(command, check=False, timeout=20, capture_output=True).returncode == 0

    wait_until(is_set, 20, "a keyboard")


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("us", "yY zZ @#$%^&*()_+{}|:<>?~ [];,./ `"),
        ("de", "yY zZ äÖüß @€{}[]~|^ é È êô _-:;<>#*+ §"),
        ("fr", "azAZ qwQW mM éèàç 0123456789 @#{}[]|^ êÊ ï .;/!"),
    ],
)
def test_typed_text_arrives_as_it_is_on_the_guests_keyboard(
    page_proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path, layout: str, text: str
) -> None:
    guests_keyboard(desktop, layout)
    opened(browser, page_proxy, page_proxy.offer("s1", desktop, policy={"keyboard": layout}))
    browser.move(300, 300)
    assert type_text(browser, f"cat > out\n{text}\n") == "Typed."
    wait_until(lambda: f"{text}\n" == (tmp_path / "out").read_text(), 30, "the text")
    picture(browser, f"typed-{layout}")
    assert browser.value("window.violations") == []


def test_a_key_is_passed_as_pressed_or_as_the_character_that_it_made(
    page_proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path
) -> None:
    guests_keyboard(desktop, "de")
    opened(browser, page_proxy, page_proxy.offer("s1", desktop))
    browser.move(300, 300)
    american = {"y": "KeyY", "z": "KeyZ", ">": "Period", "-": "Minus"}

    def there(text: str) -> bool:
        return (tmp_path / text).exists()

    browser.type("touch yes\n", american)  # the key that has a z on it in Germany
    wait_until(lambda: there("zes"), 30, "a key as pressed")
    choose(browser, "de")
    browser.type("touch yes-no\n", american)
    wait_until(lambda: there("yes-no"), 30, "the character")


def test_what_is_not_on_the_keyboard_is_left_out_and_told(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    assert type_text(browser, "aжb雪") == "Typed. Not on this keyboard, and left out: ж 雪"
    wait_until(lambda: screen.keys == keys("ab"), 10, "the rest")
    choose(browser, "fr")  # which has an accent for ê, and none for two of them
    assert type_text(browser, "ếê") == "Typed. Not on this keyboard, and left out: ế"


def keys(text: str) -> list[tuple[int, bool]]:
    return [(ord(character), down) for character in text for down in (True, False)]


def test_a_server_that_looks_symbols_up_gets_those_of_an_american_keyboard(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"keyboard": "de"}))
    assert type_text(browser, "zA@") == "Typed."
    expected = [
        *keys("y"),
        *((SHIFT, True), *keys("A"), (SHIFT, False)),
        *((ALT_R, True), *keys("q"), (ALT_R, False)),
    ]
    wait_until(lambda: screen.keys == expected, 10, "keys")


def test_capitals_are_not_turned_round_by_two_locks(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"keyboard": "us"}))
    lock = {"key": "CapsLock", "code": "CapsLock", "windowsVirtualKeyCode": 20}
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, **lock)
    browser.type("A", {"A": "KeyA"})
    wait_until(lambda: screen.keys == [(SHIFT, True), *keys("A"), (SHIFT, False)], 10, "a capital")


def test_typing_can_be_stopped_and_ends_with_the_connection(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    browser.press("text-button")
    assert browser.value("document.getElementById('typed').maxLength") == 4096
    browser.value("document.getElementById('typed').value = 'a'.repeat(4096)")
    browser.press("type")
    assert not browser.value("document.getElementById('type').disabled === false")
    wait_until(lambda: len(screen.keys) > 20, 20, "typing")
    browser.press("stop")
    wait_until(lambda: browser.text("typing") == "Stopped.", 20, "a stop")
    stopped = len(screen.keys)
    assert stopped < 8192
    browser.press("type")
    wait_until(lambda: len(screen.keys) > stopped, 20, "typing")
    page_proxy.ask({"op": "delete", "id": "s1"})
    wait_until(lambda: "ended by management" in state(browser), 20, "the end")
    wait_until(lambda: browser.text("typing") == "Stopped.", 20, "a stop")


def test_special_keys_and_keys_that_stay_pressed(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))

    def pressed(*symbols: int) -> list[tuple[int, bool]]:
        return [*((one, True) for one in symbols), *((one, False) for one in symbols[::-1])]

    browser.press("cad")
    expected = pressed(CONTROL, ALT, DELETE)
    wait_until(lambda: screen.keys == expected, 10, "Ctrl+Alt+Del")
    browser.press("keys-button")
    picture(browser, "keys")
    for names, symbols in (
        ("control alt f2", (CONTROL, ALT, F2)),
        ("alt tab", (ALT, TAB)),
        ("super", (SUPER,)),
    ):
        browser.value(f"document.querySelector('[data-keys=\"{names}\"]').click()")
        expected += pressed(*symbols)
        wait_until(lambda: screen.keys == expected, 10, names)  # noqa: B023 - waited for at once
    browser.value("document.querySelector('[data-key=alt]').click()")
    wait_until(lambda: screen.keys == [*expected, (ALT, True)], 10, "Alt held")
    assert browser.value("document.querySelector('[data-key=alt]').ariaPressed") == "true"
    browser.value("document.querySelector('[data-key=alt]').click()")
    wait_until(lambda: screen.keys == [*expected, *pressed(ALT)], 10, "Alt let go")


def test_a_view_is_said_to_be_one_and_offers_nothing_else(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    policy = {"view_only": True, "clipboard": "none"}
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy=policy))
    assert browser.text("view-only") == "View only"
    for name in ("view-only", "fullscreen", "scale"):
        assert browser.seen(name), name
    for name in ("cad", "keys-button", "text-button", "clipboard-button"):
        assert not browser.seen(name), name
    browser.type("a")
    picture(browser, "view-only")
    assert screen.keys == []
    # One that is free has them all.
    opened(browser, page_proxy, page_proxy.offer("s2", screen.port))
    assert not browser.seen("view-only")
    for name in ("cad", "keys-button", "text-button", "clipboard-button"):
        assert browser.seen(name), name


@pytest.mark.parametrize(
    ("way", "to_guest", "from_guest"),
    [("both", True, True), ("to-guest", True, False), ("from-guest", False, True)],
)
def test_the_clipboard_panel_follows_policy(
    page_proxy: Proxy,
    screen: Screen,
    browser: Chromium,
    way: str,
    to_guest: bool,
    from_guest: bool,
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"clipboard": way}))
    browser.press("clipboard-button")
    assert (browser.seen("pasted"), browser.seen("copied")) == (to_guest, from_guest)
    picture(browser, f"clipboard-{way}")


def test_text_goes_both_ways_between_the_clipboards(
    page_proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", desktop))
    browser.move(300, 300)
    type_text(browser, "cat > out\n")
    browser.press("clipboard-button")
    browser.value("document.getElementById('pasted').value = 'from the browser\\n'")
    browser.press("paste")
    # xterm pastes the selection with Shift+Insert.
    wait_until((tmp_path / "out").exists, 20, "a file")

    def pasted() -> bool:
        browser.value("document.querySelector('#screen canvas').focus()")
        for kind in ("keyDown", "keyUp"):
            browser.ask(
                "Input.dispatchKeyEvent", type=kind, key="Insert", code="Insert", modifiers=8,
                windowsVirtualKeyCode=45,
            )  # fmt: skip
        return "from the browser\n" in (tmp_path / "out").read_text()

    browser.value("document.querySelector('[data-key=shift]').click()")
    wait_until(pasted, 30, "what was pasted", every=0.5)
    browser.value("document.querySelector('[data-key=shift]').click()")
    # And an application of the guest puts something on its clipboard (OSC 52).
    (tmp_path / "copy").write_text("\033]52;c;ZnJvbSB0aGUgZ3Vlc3Q=\007")
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Control", code="ControlLeft")
    browser.type("d", {"d": "KeyD"})
    browser.ask("Input.dispatchKeyEvent", type="keyUp", key="Control", code="ControlLeft")
    type_text(browser, "cat copy\n")
    copied = "document.getElementById('copied').value"
    wait_until(lambda: browser.value(copied) == "from the guest", 30, "the guest's clipboard")


def test_a_lost_connection_is_shown_until_it_is_back(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    assert not browser.seen("cover")
    browser.value("window.seen = []; new MutationObserver(() => window.seen.push("
                  "document.getElementById('state').textContent)).observe("
                  "document.getElementById('state'), {childList: true})")  # fmt: skip
    page_proxy.ask({"op": "drain", "within": 0.0})
    wait_until(lambda: len(browser.value("window.seen")) >= 2, 30, "a way back")
    assert browser.value("window.seen") == ["The connection was lost; coming back …", "connected"]
    assert not browser.seen("cover")


def test_a_page_that_never_gets_through_does_not_speak_of_a_loss(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    reloaded(page_proxy, "others", origins=["https://other.example"])
    browser.go(link(page_proxy, page_proxy.offer("s1", screen.port)))
    told = "No connection to the console proxy; trying again …"
    wait_until(lambda: state(browser) == told, 30, "a reason")
    place = f"https://console.example:{page_proxy.ports['tls']}"
    reloaded(page_proxy, "ours", origins=[place])
    wait_until(lambda: state(browser) == "connected", 30, "a console")  # with the same secret


def test_the_bar_can_be_hidden_and_the_screen_shown_at_its_size(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    width = "document.querySelector('#screen canvas').getBoundingClientRect().width"
    assert browser.value(width) > 100
    browser.press("scale")
    wait_until(lambda: browser.value(width) == 8, 10, "eight pixels")
    browser.press("hide")
    assert not browser.seen("bar")
    browser.press("show")
    assert browser.seen("bar")


def test_everything_that_can_be_pressed_has_a_name(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    nameless = """[...document.querySelectorAll('button, select, textarea, progress')].filter(
        (one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length)
        || one.tagName === 'TEXTAREA' && !one.labels.length).map((one) => one.outerHTML)"""
    assert browser.value(nameless) == []
    assert browser.value("document.getElementById('state').getAttribute('role')") == "status"
    assert browser.value("document.querySelectorAll('script:not([src])').length") == 0
    assert browser.value("window.violations") == []


def test_what_is_not_the_pages_own_does_not_run(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    assert browser.value("window.violations") == []
    browser.value("""(() => {
        const script = document.createElement('script');
        script.textContent = 'window.injected = true';
        document.body.append(script);
        const image = '<img src=x onerror="window.injected = true">';
        document.body.insertAdjacentHTML('beforeend', image);
        document.body.insertAdjacentHTML('beforeend', '<p id="p" style="color: red">x</p>');
    })()""")
    wait_until(lambda: len(browser.value("window.violations")) >= 3, 10, "refusals")
    assert browser.value("window.injected") is None
    assert browser.value("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    answer = browser.value("fetch('https://evil.example/').then(() => 'sent', () => 'refused')")
    assert answer == "refused"
    assert "connect-src" in browser.value("window.violations")


def test_the_page_keeps_the_vms_name(page_proxy: Proxy, screen: Screen, browser: Chromium) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port))
    wait_until(lambda: screen.sockets, 10, "the screen")
    named = struct.pack(">BxHHHHHiI", 0, 1, 0, 0, 0, 0, -307, 4) + b"kvm7"
    red = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 8, 6, 0) + b"\xff\x00\x00\x00" * 48
    screen.say(named + red)
    pixel = "[...document.querySelector('canvas').getContext('2d').getImageData(4, 3, 1, 1).data]"
    wait_until(lambda: browser.value(pixel)[0] == 255, 10, "a picture")
    assert (browser.value("document.title"), browser.text("title")) == ("web 1", "web 1")

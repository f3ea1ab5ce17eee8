"""What daemons say against their configuration."""

import pytest

from agent.monitor.configuration import finding, place, traced
from agent.monitor.model import Finding

CURRENT = "/run/sysvm/current"


@pytest.mark.parametrize(
    ("words", "file", "line", "message"),
    [
        (
            [f"dnsmasq: bad dhcp-range at line 12 of {CURRENT}/dnsmasq/dnsmasq.conf"],
            f"{CURRENT}/dnsmasq/dnsmasq.conf",
            12,
            "bad dhcp-range",
        ),
        (
            [f"[ALERT] config : parsing [{CURRENT}/haproxy/haproxy.cfg:7] : unknown 'bogus'"],
            f"{CURRENT}/haproxy/haproxy.cfg",
            7,
            "unknown 'bogus'",
        ),
        (
            [
                f"AH00526: Syntax error on line 3 of {CURRENT}/apache2/apache2.conf:",
                "Invalid command 'Bogus', perhaps misspelled",
            ],
            f"{CURRENT}/apache2/apache2.conf",
            3,
            "Invalid command 'Bogus', perhaps misspelled",
        ),
        (
            [f"{CURRENT}/ssh/sshd_config: line 5: Bad configuration option: bogus"],
            f"{CURRENT}/ssh/sshd_config",
            5,
            "Bad configuration option: bogus",
        ),
    ],
)
def test_file_and_line_are_found(words: list[str], file: str, line: int, message: str) -> None:
    found = finding(["something before", *words])
    assert found is not None
    assert (found.file, found.line, found.message) == (file, line, message)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dnsmasq: failed to create listening socket for 10.1.1.1: Address already in use"],
        ["[ALERT] (12) : Binding [/run/x.cfg:28] for frontend shop: cannot bind socket"],
        ["(98)Address already in use: AH00072: make_sock: could not bind to address 10.1.1.1:80"],
        ["Segmentation fault"],
    ],
)
def test_what_is_no_mistake_of_a_file_is_none(words: list[str]) -> None:
    assert finding(words) is None


def test_the_place_in_the_document_is_the_comment_above() -> None:
    text = "# From agent/templates/x; do not edit\nglobal\n# /load_balancer/listeners/shop\na\nb\n"
    assert place(text, 5, "/load_balancer") == "/load_balancer/listeners/shop"
    assert place(text, 2, "/load_balancer") == "/load_balancer"


MADE = "# From agent/templates/x; do not edit\nglobal\n# /load_balancer/listeners/shop\na\nb\n"


@pytest.mark.parametrize(
    ("text", "line", "path", "by_hand"),
    [
        (MADE, 5, "/load_balancer/listeners/shop", False),
        (MADE, 2, "/load_balancer", False),
        (MADE + "bogus\n", 6, "", True),  # added below the last place that is named
        (MADE.replace("b\n", "bogus\n"), 5, "", True),
        ("bogus\n" + MADE, 6, "/load_balancer/listeners/shop", False),  # ours, moved
        (MADE, 0, "/load_balancer", False),
        (MADE + "bogus\n", 0, "", True),
        ("", 7, "", True),
    ],
)
def test_a_line_that_a_hand_wrote_is_from_nowhere_in_the_document(
    text: str, line: int, path: str, by_hand: bool
) -> None:
    found = traced(Finding("/x", line, "bad"), text, MADE, "/load_balancer")
    assert (found.path, found.by_hand) == (path, by_hand)
    assert (found.file, found.line, found.message) == ("/x", line, "bad")

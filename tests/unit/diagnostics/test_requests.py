"""What may be tried, and the command line it becomes: every option, and all that is not one."""

import getopt
import re
import string
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.diagnostics.refusal import DiagnosticRefused
from agent.diagnostics.requests import TOOLS, Nics, Request, command

NICS: Nics = {
    "eth0": (ip_interface("169.254.10.2/16"),),
    "eth1": (ip_interface("203.0.113.10/24"), ip_interface("203.0.113.11/24")),
    "eth2": (ip_interface("10.1.1.1/24"), ip_interface("fd00:1::1/64")),
    "eth3": (ip_interface("10.1.0.1/16"),),
}
GUEST = "10.1.1.10"


def argv(tool: str, target: str, arguments: str = "", family: int | None = None) -> str:
    request = Request(tool=tool, target=target, family=family, arguments=arguments)
    return " ".join(command(request, NICS))


def refusal(tool: str, target: str, arguments: str = "", family: int | None = None) -> str:
    with pytest.raises(DiagnosticRefused) as refused:
        argv(tool, target, arguments, family)
    return str(refused.value)


# -- what is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "target", "arguments", "line"),
    [
        ("ping", GUEST, "", "ping -4 -c 4 -- 10.1.1.10"),
        ("ping", GUEST, "-c 2", "ping -4 -c 2 -- 10.1.1.10"),
        ("ping", GUEST, "-c2", "ping -4 -c 2 -- 10.1.1.10"),
        ("ping", GUEST, "-nqc2 -i 0.2", "ping -4 -n -q -c 2 -i 0.2 -- 10.1.1.10"),
        ("ping", GUEST, "  -n   -v ", "ping -4 -c 4 -n -v -- 10.1.1.10"),
        ("ping", GUEST, "-I eth2 -M do -s 1472", "ping -4 -c 4 -I eth2 -M do -s 1472 -- 10.1.1.10"),
        ("ping", GUEST, "-I 10.1.1.1", "ping -4 -c 4 -I 10.1.1.1 -- 10.1.1.10"),
        ("ping", "vm1.example", "", "ping -c 4 -- vm1.example"),
        ("ping", "vm1.example", "-6", "ping -6 -c 4 -- vm1.example"),
        ("ping", "fd00:1::2", "", "ping -6 -c 4 -- fd00:1::2"),
        ("ping6", "vm1", "-p ff00 -t 9", "ping -6 -c 4 -p ff00 -t 9 -- vm1"),
        ("ping", "fe80::2%eth2", "", "ping -6 -c 4 -- fe80::2%eth2"),
        ("traceroute", "8.8.8.8", "", "traceroute -4 -m 20 -- 8.8.8.8"),
        ("traceroute", "8.8.8.8", "-I -m 5 -q1", "traceroute -4 -I -m 5 -q 1 -- 8.8.8.8"),
        ("traceroute", "a.b", "-T -p 443 -w 1.5", "traceroute -m 20 -T -p 443 -w 1.5 -- a.b"),
        ("traceroute6", "fd00:1::2", "-n", "traceroute -6 -m 20 -n -- fd00:1::2"),
        ("arping", GUEST, "", "arping -I eth2 -c 4 -- 10.1.1.10"),
        ("arping", GUEST, "-I eth3 -D", "arping -I eth3 -c 4 -D -- 10.1.1.10"),
        ("arping", "10.1.9.9", "-c 1 -w 2", "arping -I eth3 -c 1 -w 2 -- 10.1.9.9"),
        ("arping", "192.0.2.1", "-I eth1", "arping -I eth1 -c 4 -- 192.0.2.1"),
        ("arping", "fd00:1::2", "", "ndisc6 -r 4 -- fd00:1::2 eth2"),
        ("arping", "fd00:1::2", "-c 1 -w 500", "ndisc6 -r 1 -w 500 -- fd00:1::2 eth2"),
        ("arping", "fe80::2%eth1", "", "ndisc6 -r 4 -- fe80::2 eth1"),
    ],
)
def test_request_becomes_a_command_line(tool: str, target: str, arguments: str, line: str) -> None:
    assert argv(tool, target, arguments) == line


# -- what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "character", "place"),
    [
        ("-c 4; reboot", "';'", 5),
        ("-c 4\n-f", r"'\n'", 5),
        ("-n\t-q", r"'\t'", 3),
        ("$(id)", "'$'", 1),
        ("-I eth0/../x", "'/'", 8),
        ("-c 4 | tee", "'|'", 6),
        ("--flood=1", "'='", 8),
        ("-c \u0664", r"'\u0664'", 4),
        ("-p \x00", r"'\x00'", 4),
        ("-I fd00::1", "':'", 8),
        ("x" * 10_000 + "\u2028", r"'\u2028'", 10_001),
    ],
)
def test_illegal_character_is_named(arguments: str, character: str, place: int) -> None:
    for tool in TOOLS:
        said = refusal(tool, GUEST, arguments)
        assert said == f"/arguments: illegal character {character} at place {place}"


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("ping", "-f", "-f is not allowed: it floods"),
        ("ping", "-nf", "-f is not allowed"),
        ("ping", "-A", "floods"),
        ("ping", "-l 3", "floods"),
        ("ping", "-b", "every host"),
        ("ping", "-m 7", "past the VM's own routes"),
        ("ping", "-R", "traceroute shows the way"),
        ("ping", "-T tsonly", "routers drop"),
        ("ping", "-N help", "not a ping"),
        ("ping", "--flood", "long options"),
        ("ping", "--", "long options"),
        ("ping", "-", "is not an option"),
        ("ping", "10.1.1.11", "10.1.1.11 is not an option"),
        ("ping", "-c 1000000", "from 1 to 1000, not 1000000"),
        ("ping", "-c1000000", "from 1 to 1000, not 1000000"),
        ("ping", "-c 0", "from 1 to 1000"),
        ("ping", "-c -4", "from 1 to 1000, not -4"),
        ("ping", "-c", "and has none"),
        ("ping", "-i 0.01", "from 0.2 to 60"),
        ("ping", "-w 100000", "from 1 to 240"),
        ("ping", "-s 65508", "from 0 to 65507"),
        ("ping", "-p xyz", "hexadecimal"),
        ("ping", "-M never", "one of do, dont, want, probe"),
        ("ping", "-I eth9", "a NIC of this VM"),
        ("ping", "-I 10.1.1.99", "IPv4 address of this VM"),
        ("ping", "-I -f", "a NIC of this VM"),
        ("ping", "-c 1 -c 2", "there twice"),
        ("ping", "-4 -6", "both IPv4 and IPv6"),
        ("ping", "-6", "is an IPv4 address"),
        ("ping", "-h", "not an option here"),
        ("ping", "-V", "not an option here"),
        ("traceroute", "-M tcp", "load a file"),
        ("traceroute", "-O help", "modules"),
        ("traceroute", "-g 10.1.1.1", "past the VM's own routes"),
        ("traceroute", "-A", "servers on the internet"),
        ("traceroute", "-P 47", "any protocol"),
        ("traceroute", "-UL", "-L is not an option here"),
        ("traceroute", "-m 255", "from 1 to 64"),
        ("traceroute", "-q 1000", "from 1 to 10"),
        ("traceroute", "-s 10.1.1.99", "IPv4 address of this VM"),
        ("traceroute", "-i eth9", "a NIC of this VM"),
        ("traceroute", "60", "60 is not an option"),
        ("arping", "-U", "neighbours"),
        ("arping", "-A", "neighbours"),
        ("arping", "-s 10.1.1.10", "IPv4 address of this VM"),
        ("arping", "-I eth9", "a NIC of this VM"),
        ("arping", "-c 100000", "from 1 to 1000"),
    ],
)
def test_option_is_refused_by_name(tool: str, arguments: str, words: str) -> None:
    assert words in refusal(tool, GUEST, arguments)


@pytest.mark.parametrize(
    "target",
    ["", "-f", "--help", "-", "a b", "10.1.1.10 -f", "10.1.1.10;id", "file:///etc/passwd",
     "http://a/", "/etc/passwd", "../x", "a..b", ".a", "a.", "a_b", "10.1.1.300", "127.1", "1",
     "0x7f.1", "a.0x1", "$(id)", "`id`", "a\nb", "a\x00", "10.1.1.10/24", "x" * 64, "a." * 130,
     "\u0661.1.1.1", "fe80::1%eth9", "fe80::1%;id", "fe80::1%", "::1%-f", "[::1]"],
)  # fmt: skip
def test_what_is_no_target_reaches_no_tool(target: str) -> None:
    for tool in TOOLS:
        with pytest.raises(DiagnosticRefused) as refused:
            argv(tool, target)
        assert refused.value.path == "/target"


def test_neighbours_are_asked_for_by_address_in_a_network_of_ours() -> None:
    assert "by its address" not in refusal("arping", "vm1")
    assert refusal("arping", "vm1") == "/target: is not an IP address"
    assert refusal("arping", "192.0.2.1") == "/target: is in no network of this VM"
    assert refusal("arping", "fe80::2") == "/target: is in no network of this VM"
    assert "-d is not allowed" in refusal("arping", "fd00:1::2", "-d")
    assert "the same" in refusal("arping", "fd00:1::2", "-c 1 -r 2")


def test_families_that_contradict_are_refused() -> None:
    assert refusal("ping6", GUEST) == "/target: is an IPv4 address"
    assert refusal("ping6", "vm1", family=4) == "/family: ping6 is for IPv6"
    assert refusal("ping", "vm1", family=5) == "/family: is 4 or 6"
    assert refusal("ping", "vm1", "-4", family=6) == "/arguments: both IPv4 and IPv6 are asked for"
    assert refusal("arping", GUEST, family=6) == "/target: is an IPv4 address"
    assert argv("ping", "vm1", family=6) == "ping -6 -c 4 -- vm1"


def test_tools_are_few() -> None:
    for tool in ("sh", "ping;id", "", "/bin/ping", "tcpdump"):
        assert refusal(tool, GUEST).startswith("/tool: ")


# -- nonsense ----------------------------------------------------------------------------------

# What the tools themselves would take (getopt(3)), from their sources; traceroute has a parser of
# its own, of which these are the options with one letter.
OPTIONS: Mapping[str, str] = {
    "ping": "h4bRT:6F:N:3aABc:CdDe:fHi:I:l:Lm:M:nOp:qQ:rs:S:t:UvVw:W:",
    "arping": "hbfDUAqc:w:i:s:I:V",
    "ndisc6": "1dhmnqr:s:Vvw:",
    "traceroute": "46dFf:g:ITi:m:N:np:t:l:w:q:rs:z:eAM:O:UDP:V",
}
HARMLESS: Mapping[str, str] = {
    "ping": "46ciIMpQstwW3BDHLnOqUv",
    "arping": "bcDfIiqsw",
    "ndisc6": "1mnqrvw",
    "traceroute": "46fimNpqstwzeFInTU",
}
LETTERS = string.ascii_letters + string.digits + "-."
HOSTILE = (
    "-f", "-l", "--", "--flood", "-I", "-c", "-c1000000", "-c -f", "-nqf", ";", "$(id)", "`id`",
    "|", ">x", "&", "-M", "-O", "-g", "file:///etc/passwd", "/etc/passwd", "\n", "\x00", "-",
    "-w", "-W", "-i", "-i0", "-i 0.0", "eth2", "eth9", "-s", "-p", "-U", "-A", "10.1.1.1", "-6",
)  # fmt: skip

good = st.sampled_from(
    ("-n", "-q", "-nq", "-c 3", "-c9", "-s 99", "-I eth2", "-w 5", "-i 1", "-m9")
)
words = st.one_of(
    good,
    st.sampled_from(HOSTILE),
    st.text(LETTERS, max_size=6),
    st.builds("-{}".format, st.text(string.ascii_letters + string.digits, max_size=4)),
    st.builds(
        "-{} {}".format,
        st.sampled_from("ciIMpQstwWmfNqzr"),
        st.one_of(st.integers(-3, 2000).map(str), st.text(LETTERS, max_size=5)),
    ),
)
arguments = st.one_of(
    st.text(max_size=20),
    st.text(f"{LETTERS} ", max_size=40),
    st.lists(words, max_size=5).map(" ".join),
    st.lists(good, max_size=3).map(" ".join),
    st.lists(words, max_size=5).map("".join),
)
targets = st.one_of(st.sampled_from((GUEST, "fd00:1::2", "vm1.example")), st.text(max_size=12))
# Ten thousand also where other properties are tried with a handful; ten times that in a long run.
EXAMPLES = max(10_000, 20 * hypothesis.settings().max_examples)


@settings(max_examples=EXAMPLES, deadline=None)
@given(tool=st.sampled_from(TOOLS), target=targets, text=arguments)
def test_no_string_reaches_a_shell_a_file_or_another_option(
    tool: str, target: str, text: str
) -> None:
    """What comes out is read again as the tool itself reads it."""
    try:
        line = command(Request(tool=tool, target=target, arguments=text), NICS)
    except DiagnosticRefused as error:
        hypothesis.event(f"refused: {error.path}")
        if not error.message.isprintable():
            raise
        return
    hypothesis.event("understood")
    program, *rest = line
    assert all(re.fullmatch(r"[A-Za-z0-9.:%-]+", word) for word in line)
    found, others = getopt.getopt(rest, OPTIONS[program])
    assert {flag[1:] for flag, _ in found} <= set(HARMLESS[program])
    assert others == ([target, "eth2"] if program == "ndisc6" else [target])
    given = dict(found)
    assert int(given.get("-c", 1)) <= 1000
    assert float(given.get("-i", 1) if program == "ping" else 1) >= 0.2
    assert program not in {"ping", "arping"} or "-c" in given
    nic = given.get("-i" if program == "traceroute" else "-I", "eth2")
    assert nic in NICS or ip_address(nic) in {a.ip for of in NICS.values() for a in of}

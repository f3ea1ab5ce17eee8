"""Documents that are nearly right: the full example, changed in a few places at random."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

EXAMPLE = Path(__file__).parents[3] / "examples/router.json"

# What a value may become: other valid values, values of other kinds, and what nobody should send.
VALUES = st.one_of(
    st.sampled_from(
        [
            "10.1.1.10", "10.1.1.1", "10.1.1.255", "203.0.113.10", "203.0.113.99", "0.0.0.0/0",
            "10.1.1.0/24", "::/0", "2001:db8::1", "fe80::1", "02:00:0a:01:01:0a", "vm1", "vm2",
            "net1.example.internal", "tcp", "udp", "icmp", "all", "80-90", "1-65535", "source",
            "http", "drain", "deny", "infinite", "a" * 64, "", " ", "\n", "\x00", "x\ny", "{{1}}",
            "$(id)", "../..", "\ud800", "\u2028", "-", "é",
        ]
    ),
    st.integers(-1, 70000),
    st.sampled_from([2**31, 2**63, 2**70, -(2**70)]),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.just({}),
    st.just([]),
    st.lists(st.sampled_from(["10.1.1.0/24", "0.0.0.0/0", "x"]), max_size=3),
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The example with up to four members changed, removed, added or taken from elsewhere."""
    value: dict[str, Any] = json.loads(EXAMPLE.read_text())
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, value)
    value["generation"] = 1
    return value


def _change(draw: st.DrawFn, value: dict[str, Any]) -> None:
    parent = value
    while True:
        keys = sorted(parent)
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        child = parent[key]
        if not isinstance(child, dict) or not child or draw(st.integers(0, 3)) == 0:
            break
        parent = child
    match draw(st.sampled_from(["replace", "remove", "double", "add"])):
        case "replace":
            parent[key] = draw(VALUES)
        case "remove":
            del parent[key]
        case "double":
            parent[draw(st.sampled_from(["again", "10.1.1.77", "02:00:0a:01:01:77"]))] = (
                copy.deepcopy(parent[key])
            )
        case _:
            parent[draw(st.text(max_size=8))] = draw(VALUES)

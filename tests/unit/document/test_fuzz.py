"""Nonsense is refused with problems, or makes sense: nothing else ever comes out."""

import json
import re
from typing import Any

from hypothesis import given, settings

from agent.document.document import InvalidDocument, parse
from agent.engine import firewall
from agent.engine.compose import Composer
from agent.engine.model import Desired, Link, Problem
from tests.unit.document.mutations import documents

LINKS = tuple(
    Link(name, mac, 1500, up=False)
    for name, mac in (
        ("eth0", "02:00:0a:01:01:01"),
        ("eth1", "0e:00:a9:fe:0a:02"),
        ("eth2", "1e:00:cb:00:71:02"),
    )
)
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2\x85|\xe2\x80[\xa8\xa9]")


@settings(max_examples=150, deadline=None)
@given(document=documents())
def test_document_is_refused_with_problems_or_renders_clean_files(document: dict[str, Any]) -> None:
    problems: tuple[Problem, ...] = ()
    desired: Desired | None = None
    try:
        desired = Composer().compose(parse(json.dumps(document).encode()), LINKS, None)
    except InvalidDocument as error:
        problems = error.problems
    assert (desired is None) is bool(problems)
    assert all(problem.message for problem in problems)
    if desired is None:
        return
    for path, file in desired.files.items():
        assert not CONTROL.search(file.content), path
    for text in firewall.tables(desired.chains, desired.rules).values():
        for line in text.splitlines():
            assert line.startswith(("*", ":", "-A ", "COMMIT")) or not line
            assert line.count('"') % 2 == 0

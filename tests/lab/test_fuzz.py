"""What our own types and lint accept, the daemons' checkers and the kernel accept as well."""

import itertools
import json
from typing import Any

from hypothesis import HealthCheck, given, settings

from agent.document.document import InvalidDocument, parse
from agent.engine.compose import Composer
from agent.engine.model import Link
from appliance.lab import Lab
from tests.unit.document.mutations import documents

LINKS = tuple(
    Link(name, mac, 1500, up=False)
    for name, mac in (
        ("eth0", "02:00:0a:01:01:01"),
        ("eth1", "0e:00:a9:fe:0a:02"),
        ("eth2", "1e:00:cb:00:71:02"),
    )
)
_GENERATIONS = itertools.count(1)


def is_accepted(document: dict[str, Any]) -> bool:
    """By the code that management runs outside the VM."""
    try:
        Composer().compose(parse(json.dumps(document).encode()), LINKS, None)
    except InvalidDocument:
        return False
    return True


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(document=documents())
def test_what_is_accepted_outside_is_accepted_inside(lab: Lab, document: dict[str, Any]) -> None:
    document["generation"] = next(_GENERATIONS)
    answer = lab.vm.request("PUT", "/v1/document?dry_run=1", json=document)
    if is_accepted(document):
        missing = answer.status == 422 and all(
            "blob" in problem["message"] or problem["path"] == "/site/nics"
            for problem in answer.json()["problems"]
        )
        assert answer.status == 200 or missing, answer.text
    else:
        assert answer.status == 422, answer.text
        assert all(problem["message"] for problem in answer.json()["problems"])

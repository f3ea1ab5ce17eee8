"""What the tests of health checks share: a router that is well, what it finds, and its breaking."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import CALM, VM1, Router, example, settle

Result = Mapping[str, Any]


def quiet(lab: Lab) -> Router:
    """The example runs, and watches itself at no interval unless a test says so."""
    router = Router(lab)
    silence = {"monitoring": {"interval": 0, "advanced_interval": 0}}
    router.push(merge(merge(example(), CALM), silence))
    settle(lab.guests["vm1"], VM1)
    return router


def check(lab: Lab, name: str) -> Result:
    """What a check finds now."""
    answer = lab.vm.request("POST", f"/v1/health/run?name={name}")
    assert answer.status == 200, answer.text
    (result,) = answer.json()
    return dict(result)


def health(lab: Lab) -> dict[str, Any]:
    """What is known."""
    answer = lab.vm.request("GET", "/v1/health")
    assert answer.status == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def ill(lab: Lab) -> list[Result]:
    """What a whole round, run now, finds wrong."""
    answer = lab.vm.request("POST", "/v1/health/run")
    assert answer.status == 200, answer.text
    return [one for one in answer.json() if one["verdict"] not in {"passed", "skipped"}]


def passes(lab: Lab, name: str) -> None:
    def well() -> bool:
        result = check(lab, name)
        return bool(result["verdict"] == "passed")

    wait_until(well, 15, f"a {name} that passes")


@contextmanager
def broken(lab: Lab, name: str, item: str, path: str, *, verdict: str = "failed") -> Iterator[None]:
    """Around what breaks something: it passed before, and passes again when it is put back.

    The block's first half breaks; the check then names the item and its place.
    """
    passes(lab, name)
    yield
    result = check(lab, name)
    assert result["verdict"] == verdict, result
    assert any(item in one for one in (*result["missing"], result["message"])), result
    assert result["path"] == path, result


def sh(lab: Lab, script: str) -> str:
    return lab.vm.run(["sh", "-ec", script]).text

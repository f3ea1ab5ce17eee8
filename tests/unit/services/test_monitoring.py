"""The section that says how the VM watches itself."""

import pydantic
import pytest

from agent.engine.model import Artifacts
from agent.services import monitoring
from tests.unit.services.sites import CONTROL, GUEST, PUBLIC, context, linted, rendered


def test_watches_by_itself() -> None:
    assert monitoring.ABSENT.enabled
    assert monitoring.ABSENT.interval == 180


def test_renders_nothing() -> None:
    where = context(PUBLIC, GUEST, CONTROL)
    assert rendered("monitoring", {"enabled": False}, where) == Artifacts()


def test_a_unit_that_nobody_has_is_refused_with_its_path() -> None:
    where = context(PUBLIC, GUEST, CONTROL)
    value = {"services": {"dnsmasq": {"enabled": False}, "bind9": {}}}
    (problem,) = linted("monitoring", value, where)
    assert problem.path == "/monitoring/services/bind9"
    assert "dnsmasq" in problem.hint


@pytest.mark.parametrize("interval", [-1, 86_401, "180", True, 1.5])
def test_an_interval_that_is_none_is_refused(interval: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        monitoring.Section.model_validate({"interval": interval})

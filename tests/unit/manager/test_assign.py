"""Which proxy a session goes to, as values."""

import pytest

from appliance.manager.assign import (
    Candidate,
    Condition,
    Order,
    Proxy,
    Reason,
    candidates,
    capacity,
)


def proxy(name: str, load: int = 0, condition: Condition = Condition.RUNNING, **more: int) -> Proxy:
    given = {"soft": 10, "hard": 12, "position": 0} | more
    return Proxy(name=name, zone="z1", load=load, condition=condition, **given)


def names(found: tuple[Candidate, ...] | Reason) -> list[str]:
    assert not isinstance(found, Reason)
    return [candidate.proxy for candidate in found]


def test_the_least_loaded_comes_first() -> None:
    given = [proxy("a", 5), proxy("b", 2), proxy("c", 9)]
    assert names(candidates(given, (), "z1")) == ["b", "a", "c"]


def test_load_is_a_share_of_the_soft_cap() -> None:
    given = [proxy("small", 2, soft=4, hard=5), proxy("large", 30, soft=100, hard=120)]
    assert names(candidates(given, (), "z1")) == ["large", "small"]


def test_in_the_configured_order_the_first_with_room_is_filled() -> None:
    given = [proxy("a", 3, position=2), proxy("b", 9, position=1), proxy("c", 10, position=0)]
    assert names(candidates(given, (), "z1", Order.CONFIGURED)) == ["b", "a"]


def test_a_vm_goes_to_where_it_has_a_session_whatever_the_load() -> None:
    given = [proxy("a", 0), proxy("b", 11)]
    assert candidates(given, {"b"}, "z1") == (Candidate("b", 12, again=True),)


def test_and_also_from_another_zone() -> None:
    assert names(candidates([proxy("a", 1)], {"a"}, "z2")) == ["a"]


def test_a_vm_is_never_split_where_its_proxy_is_full() -> None:
    assert candidates([proxy("a"), proxy("b", 12)], {"b"}, "z1") is Reason.FULL_THERE


@pytest.mark.parametrize("condition", [Condition.DRAINING, Condition.SILENT])
def test_a_proxy_that_is_not_available_binds_nobody(condition: Condition) -> None:
    given = [proxy("a", 5), proxy("b", 1, condition)]
    assert names(candidates(given, {"b"}, "z1")) == ["a"]


def test_one_that_has_just_not_answered_is_left_out_and_binds_still() -> None:
    given = [proxy("a", 5), proxy("b", 1)]
    assert names(candidates(given, (), "z1", without={"b"})) == ["a"]
    assert candidates(given, {"b"}, "z1", without={"b"}) is Reason.GONE_THERE


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], Reason.NONE),
        ([proxy("a", condition=Condition.SILENT)], Reason.SILENT),
        (
            [proxy("a", condition=Condition.SILENT), proxy("b", condition=Condition.DRAINING)],
            Reason.DRAINING,
        ),
        ([proxy("a", condition=Condition.DRAINING), proxy("b", 10)], Reason.FULL),
    ],
)
def test_why_there_is_none(given: list[Proxy], reason: Reason) -> None:
    assert candidates(given, (), "z1") is reason


def test_capacity_asks_for_as_many_proxies_as_the_standby_needs() -> None:
    given = [proxy("a", 8), proxy("b", 9)]
    assert capacity(given, "z1", 3).wanted == 2
    assert capacity(given, "z1", 4).wanted == 3
    assert capacity(given, "z1", 14).wanted == 4


def test_capacity_calls_a_proxy_superfluous_only_when_its_sessions_fit_elsewhere() -> None:
    given = [proxy("a", 4), proxy("b", 3), proxy("c", 0, Condition.DRAINING)]
    found = capacity(given, "z1", 3)
    assert (found.wanted, found.running, found.draining, found.room) == (1, 2, 1, 13)
    assert capacity(given, "z1", 4).wanted == 2


def test_an_empty_zone_wants_a_proxy_for_its_standby() -> None:
    assert capacity([], "z1", 10).wanted == 1
    assert capacity([], "z1", 0).wanted == 0

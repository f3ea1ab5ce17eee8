"""Limits: rates by source, connections that have said nothing yet; bounded whoever comes."""

from ipaddress import ip_address

import pytest

from agent.console.limits import Buckets, HalfOpen, Rate, source_key


def test_a_burst_passes_and_then_the_rate_does() -> None:
    buckets = Buckets(Rate(per_second=1, burst=3))
    assert [buckets.take("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 0.9)
    assert buckets.take("a", 1.1)
    assert [buckets.take("a", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_stands_gives_nothing_away() -> None:
    buckets = Buckets(Rate(per_second=1, burst=1))
    assert buckets.take("a", 5.0)
    assert not buckets.take("a", 4.0)


def test_sources_are_forgotten_when_there_are_too_many() -> None:
    buckets = Buckets(Rate(per_second=0.001, burst=1), kept=10)
    for number in range(1000):
        assert buckets.take(number, 0.0)
    assert len(buckets) == 10
    assert not buckets.take(999, 0.0)


def test_an_ipv6_network_is_one_source() -> None:
    assert source_key(ip_address("2001:db8::1")) == source_key(ip_address("2001:db8::2"))
    assert source_key(ip_address("2001:db8::1")) != source_key(ip_address("2001:db8:0:1::1"))
    assert source_key(ip_address("::ffff:192.0.2.1")) == source_key(ip_address("192.0.2.1"))
    assert source_key(ip_address("192.0.2.1")) != source_key(ip_address("192.0.2.2"))


def test_half_open_connections_are_few_in_all_and_of_each() -> None:
    half_open = HalfOpen(total=3, each=2)
    assert half_open.enter("a")
    assert half_open.enter("a")
    assert not half_open.enter("a")
    assert half_open.enter("b")
    assert not half_open.enter("c")
    assert not half_open.change("b", "a")
    half_open.leave("a")
    assert half_open.change("b", "a")
    assert half_open.change("a", "b")
    assert half_open.enter("c")
    assert not half_open.enter("d")
    for key in ("a", "b", "c"):
        half_open.leave(key)
    assert len(half_open) == 0
    with pytest.raises(KeyError):
        half_open.leave("a")

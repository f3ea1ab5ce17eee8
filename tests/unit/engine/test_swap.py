"""The swap: what rules have counted is kept."""

from agent.engine.model import Count, CounterKey, Family, Table
from tests.unit.engine.machine import Machine


def test_counts_go_on_when_a_table_is_replaced_and_end_with_their_rule(machine: Machine) -> None:
    stays = CounterKey(Family.V4, Table.FILTER, "INPUT", "stays")
    other = CounterKey(Family.V4, Table.NAT, "PREROUTING", "other table")
    goes = CounterKey(Family.V4, Table.FILTER, "INPUT", "goes")
    fold = machine.engine._swap.fold  # noqa: SLF001 - the plan decides when; this is about what
    machine.host.counts = {key: Count(5, 50) for key in (stays, other, goes)}
    fold(machine.host.counts, {(Family.V4, Table.FILTER)})
    machine.host.counts = {stays: Count(2, 20), other: Count(7, 70)}
    assert machine.engine.counters() == {stays: Count(7, 70), other: Count(7, 70)}
    fold(machine.host.counts, {(Family.V4, Table.FILTER)})
    machine.host.counts = {key: Count(0, 0) for key in (stays, other, goes)}
    assert machine.engine.counters()[stays] == Count(7, 70)
    assert machine.engine.counters()[goes] == Count(0, 0)

"""Figures of this machine for metrics: what can be read at no cost worth the name."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InterfaceCounts:
    """What has passed a NIC since the machine booted; drops and errors of both directions."""

    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    dropped: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The machine at this moment. What cannot be read is None."""

    cpu_busy: float  # seconds of all cores since the machine booted
    cpu_idle: float
    memory_available: int  # bytes
    memory_total: int
    state_free: int | None = None  # bytes of the state partition
    state_total: int | None = None
    state_inodes_free: int | None = None
    connections: int | None = None
    connections_limit: int | None = None
    interfaces: Mapping[str, InterfaceCounts]
    restarts: Mapping[str, int]  # by unit, since it was loaded

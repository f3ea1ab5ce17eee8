"""Which proxy a console session goes to, and how many proxies there should be. Pure.

A VM that has a session on a proxy that is available goes there again, up to the proxy's hard cap:
two viewers of a screen are to meet in one place. Otherwise it is the first available proxy of the
zone with room below its soft cap. Between the caps is the room for those who come again.
"""

import enum
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass


class Order(enum.StrEnum):
    """Which of several proxies with room comes first."""

    LEAST_LOADED = "least-loaded"  # by the share of its soft cap that is taken
    CONFIGURED = "configured"  # one is filled before the next, so that the last may be empty


class Condition(enum.StrEnum):
    """Whether a proxy can be given sessions."""

    RUNNING = "running"
    DRAINING = "draining"
    SILENT = "silent"  # it has not reported for too long, or never


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A console proxy as assignment sees it. `load` is every session that may be open on it."""

    name: str
    zone: str
    load: int
    soft: int
    hard: int
    condition: Condition = Condition.RUNNING
    position: int = 0  # in the configured order

    @property
    def available(self) -> bool:
        """May it be given sessions?"""
        return self.condition is Condition.RUNNING


class Reason(enum.StrEnum):
    """Why there is no proxy for a session."""

    NONE = "no proxy is registered for the zone"
    SILENT = "no proxy of the zone reports"
    DRAINING = "the zone's proxies are draining"
    FULL = "every proxy of the zone is full"
    FULL_THERE = "the proxy that has this VM's sessions is full"
    MANY = "the user has as many sessions as one may have"
    GONE_THERE = "the proxy that has this VM's sessions does not answer"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proxy that may take the session while its load is below `limit`."""

    proxy: str
    limit: int
    again: bool  # the VM has a session there


def candidates(
    proxies: Sequence[Proxy],
    there: Collection[str],
    zone: str,
    order: Order = Order.LEAST_LOADED,
    without: Collection[str] = (),
) -> tuple[Candidate, ...] | Reason:
    """The proxies that may take a session, best first, or why there is none.

    `there` are those on which the VM has sessions, `without` those that have just not answered.
    A VM stays in one place: where that is full or mute, no other proxy is a candidate.
    """
    again = [proxy for proxy in proxies if proxy.name in there and proxy.available]
    if again:
        return _again(again, without)
    near = [proxy for proxy in proxies if proxy.zone == zone]
    running = [proxy for proxy in near if proxy.available and proxy.name not in without]
    room = [proxy for proxy in running if proxy.load < proxy.soft]
    if room:
        room.sort(key=_preference(order))
        return tuple(Candidate(proxy.name, proxy.soft, again=False) for proxy in room)
    return _reason(near, running)


def _again(again: Sequence[Proxy], without: Collection[str]) -> tuple[Candidate, ...] | Reason:
    mute = [proxy for proxy in again if proxy.name in without]
    if mute:
        return Reason.GONE_THERE
    room = [proxy for proxy in again if proxy.load < proxy.hard]
    if not room:
        return Reason.FULL_THERE
    return tuple(Candidate(proxy.name, proxy.hard, again=True) for proxy in room)


def _preference(order: Order) -> Callable[[Proxy], tuple[float, int, str]]:
    if order is Order.CONFIGURED:
        return lambda proxy: (0.0, proxy.position, proxy.name)
    return lambda proxy: (proxy.load / proxy.soft, proxy.position, proxy.name)


def _reason(near: Sequence[Proxy], running: Sequence[Proxy]) -> Reason:
    if not near:
        return Reason.NONE
    if running:
        return Reason.FULL
    if any(proxy.condition is Condition.DRAINING for proxy in near):
        return Reason.DRAINING
    return Reason.SILENT


# -- how many ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """A zone's room for sessions, and the number of proxies that should run in it."""

    zone: str
    running: int
    draining: int
    silent: int
    sessions: int  # on all of them
    room: int  # below the soft caps of those that run
    standby: int  # the room that is asked for
    wanted: int  # proxies that should run


def capacity(proxies: Iterable[Proxy], zone: str, standby: int) -> Capacity:
    """What a zone has, and what it should have so that `standby` sessions more find room.

    Another proxy is taken to be as large as the largest that is there. None is ever called
    superfluous before its sessions fit beside the standby on the others.
    """
    near = [proxy for proxy in proxies if proxy.zone == zone]
    running = [proxy for proxy in near if proxy.available]
    room = sum(max(0, proxy.soft - proxy.load) for proxy in running)
    size = max((proxy.soft for proxy in near), default=50) or 1
    if room < standby:
        wanted = len(running) + math.ceil((standby - room) / size)
    else:
        load = sum(proxy.load for proxy in running)
        wanted, held = 0, 0
        for proxy in sorted(running, key=lambda one: -one.soft):
            if held >= load + standby:
                break
            wanted, held = wanted + 1, held + proxy.soft
    return Capacity(
        zone=zone,
        running=len(running),
        draining=sum(proxy.condition is Condition.DRAINING for proxy in near),
        silent=sum(proxy.condition is Condition.SILENT for proxy in near),
        sessions=sum(proxy.load for proxy in near),
        room=room,
        standby=standby,
        wanted=wanted,
    )

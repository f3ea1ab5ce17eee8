"""How often and how many at once, by whom: token buckets and counts that take bounded room."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from agent.console.targets import Address

_KEPT = 4096  # sources that are remembered; the one that was quiet for longest is forgotten first


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and `per_second` in the long run."""

    per_second: float
    burst: float


def source_key(address: Address) -> Hashable:
    """What counts as one source: an IPv4 address, or an IPv6 network of 64 bits."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        return IPv6Network((address, 64), strict=False)
    return address


class Buckets:
    """A token bucket for each source. `now` is monotonic seconds, and the caller's."""

    def __init__(self, rate: Rate, kept: int = _KEPT) -> None:
        self._rate = rate
        self._kept = kept
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def level(self, key: Hashable, now: float) -> float:
        """How many the source may still do at once."""
        level, at = self._levels.get(key, (self._rate.burst, now))
        return min(self._rate.burst, level + max(0.0, now - at) * self._rate.per_second)

    def take(self, key: Hashable, now: float) -> bool:
        """Count one, if there is one left."""
        level = self.level(key, now)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now)
        self._levels.move_to_end(key)
        while len(self._levels) > self._kept:
            self._levels.popitem(last=False)
        return allowed


class HalfOpen:
    """Connections that have not said yet what they want, in all and of each source."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._counts: dict[Hashable, int] = {}
        self._sum = 0

    def __len__(self) -> int:
        return self._sum

    def enter(self, key: Hashable) -> bool:
        """Count one in, unless there are too many."""
        count = self._counts.get(key, 0)
        if self._sum >= self._total or count >= self._each:
            return False
        self._counts[key] = count + 1
        self._sum += 1
        return True

    def change(self, key: Hashable, other: Hashable) -> bool:
        """One is another's than it seemed; False, and nothing, where that one has too many."""
        count = self._counts.get(other, 0)
        if count >= self._each:
            return False
        self.leave(key)
        self._counts[other] = count + 1
        self._sum += 1
        return True

    def leave(self, key: Hashable) -> None:
        """Count one out that had been counted in."""
        count = self._counts.pop(key)
        if count > 1:
            self._counts[key] = count - 1
        self._sum -= 1

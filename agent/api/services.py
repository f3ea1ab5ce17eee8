"""The endpoint's part of the services: how they are watched, restarted, held and released."""

from collections.abc import Callable, Collection, Mapping

from agent.api import problems
from agent.api.ports import Machine, Watch
from agent.api.problems import Refusal
from agent.api.show import ServiceRow, services
from agent.document import json as strict_json
from agent.monitor.model import Hold, Row

LONGEST_HOLD = 7 * 24 * 3600  # seconds
LONGEST_REASON = 200  # characters


class NotWatched:
    """`agent.api.ports.Watch` where nobody watches."""

    def rows(self) -> Mapping[str, Row]:
        return {}

    def hold(self, hold: Hold) -> None:  # noqa: ARG002
        raise Refusal(problems.MACHINE_FAILED, "nobody watches services here")

    def release(self, unit: str, by: str) -> bool:  # noqa: ARG002
        return False

    def clear(self, unit: str) -> None:
        pass


class Services:
    """Rows of units, and what can be done to one that is wanted."""

    def __init__(self, machine: Machine, watch: Watch, now: Callable[[], float]) -> None:
        self._machine = machine
        self._watch = watch
        self._now = now

    def rows(self, wanted: Collection[str], units: Collection[str]) -> tuple[ServiceRow, ...]:
        return services(wanted, self._machine.units(sorted(units)), self._watch.rows())

    def restart(self, unit: str) -> ServiceRow:
        """An operator's restart also ends what the monitor makes of deaths before it."""
        self._watch.clear(unit)
        self._machine.restart(unit)
        return self._row(unit)

    def hold(self, unit: str, body: bytes, client: str) -> ServiceRow:
        seconds, why, by = _wish(body)
        self._watch.hold(Hold(unit=unit, until=self._now() + seconds, by=by or client, why=why))
        return self._row(unit)

    def release(self, unit: str, body: bytes, client: str) -> ServiceRow:
        by = _text(_object(body, {"by"}), "by")
        self._watch.release(unit, by or client)
        return self._row(unit)

    def _row(self, unit: str) -> ServiceRow:
        return self.rows([unit], [unit])[0]


def _wish(body: bytes) -> tuple[int, str, str]:
    value = _object(body, {"seconds", "reason", "by"})
    seconds = value.get("seconds")
    if type(seconds) is not int or not 1 <= seconds <= LONGEST_HOLD:
        raise Refusal(problems.BAD_REQUEST, f"seconds is a number from 1 to {LONGEST_HOLD}")
    why = _text(value, "reason")
    if not why:
        raise Refusal(problems.BAD_REQUEST, "reason says why, for who comes after")
    return seconds, why, _text(value, "by")


def _object(body: bytes, known: Collection[str]) -> Mapping[str, object]:
    value = strict_json.loads(body) if body.strip() else {}
    if not isinstance(value, dict) or not value.keys() <= set(known):
        raise Refusal(problems.BAD_REQUEST, f"the body is an object of {', '.join(sorted(known))}")
    return value


def _text(value: Mapping[str, object], name: str) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > LONGEST_REASON or not text.isprintable():
        message = f"{name} is a line of at most {LONGEST_REASON} characters"
        raise Refusal(problems.BAD_REQUEST, message)
    return text.strip()

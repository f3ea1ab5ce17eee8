"""Daemons: those that the document wants are alive, and answer where they are asked."""

from collections.abc import Collection, Mapping

from agent.monitor.checks import Check, Finding, Round, ServiceState, failed, passed, skipped
from agent.monitor.health import Level
from agent.services import discover


def judge(
    wanted: Collection[str], states: Mapping[str, ServiceState], sections: Mapping[str, str]
) -> Finding:
    """`sections` has each unit's section of the document."""
    down = {
        unit: state.said or ("does not run" if not state.alive else "does not answer")
        for unit in sorted(wanted)
        if _is_down(state := states[unit])
    }
    held = [f"{unit} is held ({states[unit].held})" for unit in sorted(wanted) if states[unit].held]
    starting = [f"{unit} is starting" for unit in sorted(wanted) if states[unit].starting]
    if down:
        first = next(iter(down))
        text = "; ".join(f"{unit}: {said}" for unit, said in down.items())
        return failed(text, down, sections.get(first, ""))
    if held and len(held) == len(wanted):
        return skipped("; ".join(held))
    return passed("; ".join([f"running: {len(wanted) - len(held)}", *held, *starting]))


def _is_down(state: ServiceState) -> bool:
    if state.held or state.starting:
        return False
    return not state.alive or state.ready is False


def run(given: Round) -> Finding:
    wanted = given.desired.units if given.desired else {}
    if not wanted:
        return skipped("the document wants no daemon")
    sections = {unit: f"/{name}" for name, one in discover().items() for unit in one.UNITS}
    return judge(wanted, given.machine.services(wanted), sections)


CHECKS = (Check("services", Level.BASIC, run),)

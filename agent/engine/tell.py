"""What the engine's outcomes are to those outside: events."""

from agent.engine.model import Committed, Degraded, Outcome, Provisional, RolledBack
from agent.engine.store import Revision, State
from agent.monitor.events import Event, Kind

ASKED = "somebody asked for it"
NOT_CONFIRMED = "it was not confirmed in time"


def ended(outcome: Outcome, running: Revision | None, back: str = "") -> Event | None:
    """The event of a transaction that ended so; None where nothing has changed.

    `running` is what runs now. With `back` the transaction was a roll back, for that reason.
    """
    info = running.info if running is not None else None
    number, generation = (info.number, info.generation) if info else (None, None)
    what = f"revision {number} (generation {generation})"
    match outcome:
        case Committed() if back:
            return _rolled_back(f"{what} runs: a roll back, for {back}", number, back)
        case Committed():
            cause = info.cause if info else ""
            return Event(
                kind=Kind.DOCUMENT_COMMITTED,
                subject=f"revision {number}",
                message=f"{what} runs, by {cause}",
                data={"revision": number, "generation": generation, "cause": cause},
            )
        case Provisional(_, seconds):
            return Event(
                kind=Kind.DOCUMENT_PROVISIONAL,
                subject=f"revision {number}",
                message=f"{what} runs, and goes unless it is confirmed within {seconds:g} s",
                data={"revision": number, "generation": generation, "seconds": seconds},
            )
        case RolledBack(kept, cause):
            return _rolled_back(f"revision {kept} runs again: {cause}", kept, cause)
        case Degraded(cause):
            return Event(
                kind=Kind.DOCUMENT_DEGRADED,
                subject=f"revision {number}" if number is not None else "boot",
                message=f"degraded: {cause}",
                data={"cause": cause},
            )
    return None


def _rolled_back(message: str, number: int | None, cause: str) -> Event:
    return Event(
        kind=Kind.DOCUMENT_ROLLED_BACK,
        subject=f"revision {number}",
        message=message,
        data={"revision": number, "cause": cause},
    )


def cut_short(number: int, state: State) -> Event:
    """A boot came before a revision was made, or confirmed."""
    cause = "the VM went down " + (
        f"while revision {state.making} was made"
        if state.making is not None
        else f"before revision {state.current} was confirmed"
    )
    return _rolled_back(f"revision {number} runs again: {cause}", number, cause)


def confirmed(revision: Revision) -> Event:
    number, generation = revision.info.number, revision.info.generation
    return Event(
        kind=Kind.DOCUMENT_CONFIRMED,
        subject=f"revision {number}",
        message=f"revision {number} (generation {generation}) is confirmed",
        data={"revision": number, "generation": generation},
    )


def unreadable(cause: str, stands_in: int | None) -> Event:
    return Event(
        kind=Kind.STATE_UNREADABLE,
        subject="state",
        message=f"{cause}; revision {stands_in} stands in for it",
        data={"cause": cause, "revision": stands_in},
    )


def not_restored(number: int, cause: str) -> Event:
    return Event(
        kind=Kind.STATE_UNREADABLE,
        subject=f"revision {number}",
        message=f"revision {number} cannot be restored: {cause}",
        data={"cause": cause, "revision": number},
    )

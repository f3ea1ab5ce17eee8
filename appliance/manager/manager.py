"""A manager put together: one database, the parts that act on it, and their threads."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agent import __version__
from appliance.manager.agents import Agents, Identity
from appliance.manager.app import create_app
from appliance.manager.assign import Order
from appliance.manager.audit import Audit
from appliance.manager.beats import Beats
from appliance.manager.consoles import EACH, Consoles
from appliance.manager.database import Database
from appliance.manager.documents import PARALLEL, Documents
from appliance.manager.follow import Follow
from appliance.manager.operations import Operations
from appliance.manager.seal import Seal, prove
from appliance.manager.tidy import DAYS, Tidy
from appliance.manager.vm_operations import VmOperations

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a manager is run. `name` is its own among those that share a database."""

    name: str
    key: bytes
    identity: Identity
    order: Order = Order.LEAST_LOADED
    each: int = EACH  # sessions that a user may have
    least_agent: str = __version__  # the oldest agent that may be changed
    parallel: int = PARALLEL  # pushes at once
    days: int = DAYS  # that sessions that are over, events and the audit are kept


class Manager:
    """One manager; `app` is its endpoint."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Raises ApplianceError."""
        database.migrate()
        seal = Seal(settings.key)
        prove(database, seal)
        self._agents = Agents(settings.identity)
        self.audit = Audit(database)
        self.consoles = Consoles(
            database, self._agents, seal, order=settings.order, each=settings.each
        )
        self._follow = Follow(settings.name, database, self._agents, self.consoles)
        self.documents = Documents(
            database,
            self._agents,
            seal,
            least=settings.least_agent,
            parallel=settings.parallel,
        )
        self.beats = Beats(database, seal)
        self._tidy = Tidy(database, settings.days)
        operations = (
            Operations(database, self.consoles, seal),
            VmOperations(database, self.documents),
        )
        self.app = create_app(database, operations, self.audit)

    def start(self, stop: threading.Event) -> tuple[threading.Thread, ...]:
        """Begin what goes on beside requests, until `stop`."""
        works = (
            self._follow.run,
            self._follow.rescue,
            self.audit.run,
            self.beats.run,
            self._tidy.run,
        )
        return tuple(_go(work, stop) for work in works)

    def close(self) -> None:
        """Let go of the agents."""
        self._agents.close()


def _go(work: Callable[[threading.Event], None], stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    return thread

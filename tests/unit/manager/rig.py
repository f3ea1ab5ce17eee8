"""A manager without its sockets: the endpoint, and what follows proxies, on real agents."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flask
from flask.testing import FlaskClient

from appliance.lab.wait import wait_until
from appliance.manager import access
from appliance.manager.access import Role
from appliance.manager.database import Database
from appliance.manager.manager import Manager, Settings
from tests.unit.manager.agent import Agent, Keys


@dataclass
class Person:
    """Somebody with a token."""

    client: FlaskClient
    token: str

    def ask(self, method: str, path: str, value: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None if value is None else json.dumps(value)
        answer = self.client.open(path, method=method, headers=headers, data=data)
        return answer.status_code, json.loads(answer.data)

    def get(self, path: str) -> Any:
        status, value = self.ask("GET", path)
        assert status == 200, value
        return value


@dataclass
class Rig:
    """A manager, those who call it, and the proxies."""

    manager: Manager
    app: flask.Flask
    database: Database
    proxies: dict[str, Agent] = field(default_factory=dict)

    def person(self, role: Role, name: str) -> Person:
        made = self.database.write(lambda c: access.make(c, name, role, 0.0))
        return Person(self.app.test_client(), made.token)

    def register(self, name: str, agent: Agent, **more: object) -> None:
        body = {"zone": "z1", "agent": agent.url, "link": f"https://{name}.console.example/"} | more
        status, value = self.person(Role.OPERATE, "root").ask("PUT", f"/v1/proxies/{name}", body)
        assert status == 200, value
        self.proxies[name] = agent

    def condition(self, name: str) -> str:
        with self.database.read() as connection:
            from appliance.manager import proxies

            return proxies.row_of(connection, name).condition.value

    def wait_for(self, name: str, condition: str) -> None:
        wait_until(lambda: self.condition(name) == condition, 60, f"{name} is {condition}")


@contextlib.contextmanager
def manager(database: Database, keys: Keys, name: str = "m1") -> Iterator[Rig]:
    """One that runs until the block ends."""
    settings = Settings(name=name, key=b"k" * 32, identity=keys.identity)
    running = Manager(database, settings)
    stop = threading.Event()
    threads = running.start(stop)
    try:
        yield Rig(running, running.app, database)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
        running.close()

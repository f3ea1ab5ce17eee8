"""The endpoint on an engine and a machine in memory."""

import flask
import flask.testing
import pytest

from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeMachine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def app(engine: FakeEngine, machine: FakeMachine) -> flask.Flask:
    return fake.app(engine, machine)


@pytest.fixture
def client(app: flask.Flask) -> flask.testing.FlaskClient:
    return app.test_client()

"""Turns of the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.console.loop_turns import Departures, Turns
from agent.console.worker import loop_factory


@pytest.fixture
def run() -> Callable[[Awaitable[Any]], Any]:
    def run(work: Awaitable[Any]) -> Any:
        async def all_of_it() -> Any:
            async with asyncio.timeout(20):
                return await work

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(all_of_it())

    return run


async def _taken(count: int, each: int, give_up: frozenset[int] = frozenset()) -> list[list[int]]:
    """Who had a turn, by the turn of the loop."""
    loop = asyncio.get_running_loop()
    turns, seen = Turns(loop, each), [list[int]()]

    async def one(number: int) -> None:
        await turns.take()
        seen[-1].append(number)

    tasks = [loop.create_task(one(number)) for number in range(count)]

    def look() -> None:
        seen.append([])
        for number in give_up:
            tasks[number].cancel()
        if not all(task.done() for task in tasks):
            loop.call_soon(look)

    loop.call_soon(look)
    await asyncio.gather(*tasks, return_exceptions=True)
    return [some for some in seen if some]


def test_so_many_have_their_turn_and_the_others_wait_in_a_row(
    run: Callable[[Awaitable[Any]], Any],
) -> None:
    taken = run(_taken(10, 3))
    assert [number for some in taken for number in some] == list(range(10))
    assert max(map(len, taken)) <= 3
    assert len(taken) >= 4


def test_who_comes_alone_does_not_wait(run: Callable[[Awaitable[Any]], Any]) -> None:
    async def alone() -> None:
        turns = Turns(asyncio.get_running_loop(), 1)
        for _ in range(3):
            await turns.take()

    run(alone())


def test_who_has_given_up_takes_nobodys_turn(run: Callable[[Awaitable[Any]], Any]) -> None:
    taken = run(_taken(8, 2, give_up=frozenset({4, 5})))
    assert [number for some in taken for number in some] == [0, 1, 2, 3, 6, 7]


def test_what_leaves_does_so_at_the_end_of_the_turn_in_the_order_it_came(
    run: Callable[[Awaitable[Any]], Any],
) -> None:
    async def some() -> None:
        departures, left = Departures(asyncio.get_running_loop()), list[int]()
        for again in range(2):
            left.clear()
            for number in range(5):
                departures.add(lambda number=number: left.append(number))  # type: ignore[misc]  # a lambda's default has no type
            assert left == [], again
            await asyncio.sleep(0)
            assert left == list(range(5)), again

    run(some())


def test_what_fails_to_leave_keeps_nobody_else(run: Callable[[Awaitable[Any]], Any]) -> None:
    async def some() -> None:
        loop, left, failed = asyncio.get_running_loop(), list[int](), list[Any]()
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        departures = Departures(loop)

        def fail() -> None:
            raise ZeroDivisionError

        for call in (lambda: left.append(1), fail, lambda: left.append(2)):
            departures.add(call)
        while len(left) < 2:
            await asyncio.sleep(0)
        assert left == [1, 2]
        assert [type(error) for error in failed] == [ZeroDivisionError]

    run(some())


def test_a_long_row_leaves_before_the_turn_ends(run: Callable[[Awaitable[Any]], Any]) -> None:
    async def some() -> None:
        departures, left = Departures(asyncio.get_running_loop()), list[int]()
        for _ in range(1000):
            departures.add(lambda: left.append(1))
        assert 0 < len(left) < 1000
        await asyncio.sleep(0)
        assert len(left) == 1000

    run(some())

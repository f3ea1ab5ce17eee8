"""Turns of the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.console.turns import Turns
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

"""Makes traffic on a node of the lab, and answers it; times are taken here.

A program of its own, standard library only. Requests are sent at their appointed times, whether
those before have been answered or not, so that a stall cannot hide behind its own queue. It ends
when standard input does, and then says what it saw, as JSON. Times are of CLOCK_MONOTONIC, which
is one on the whole machine.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

PATIENCE = 5.0  # seconds that an answer may take; then the request is lost
BEAT = 0.02  # seconds between two bytes of a long-lived flow
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER that closes with RST: no TIME_WAIT stays behind

Sample = tuple[float, float, str]  # when it was begun, how long it took, what went wrong

# -- answering -----------------------------------------------------------------------------------


async def serve(port: int) -> None:
    """HTTP on this port, an echo on the next."""
    await asyncio.start_server(_web, "0.0.0.0", port, backlog=1024)  # noqa: S104
    await asyncio.start_server(_echo, "0.0.0.0", port + 1)  # noqa: S104
    await _told_to_end("ready")


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


# -- asking --------------------------------------------------------------------------------------


async def http(address: str, port: int) -> None:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(REQUEST)
        answer = await reader.read()
    finally:
        writer.close()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"answered {answer[:40]!r}")


class _Asker(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def dns(address: str, name: str) -> None:
    """One question by one datagram: a lost one is not asked again."""
    query = struct.pack("!HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0)  # noqa: S311
    query += b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
    query += struct.pack("!BHH", 0, 1, 1)
    loop = asyncio.get_running_loop()
    transport, asker = await loop.create_datagram_endpoint(_Asker, remote_addr=(address, 53))
    try:
        transport.sendto(query)
        answer = await asker.answer
    finally:
        transport.close()
    if answer[:2] != query[:2] or answer[3] & 15 or answer[6:8] != b"\0\1":
        raise OSError(f"answered {answer[:12].hex()}")


async def _timed(ask: Awaitable[None], samples: list[Sample]) -> None:
    begun, wrong = time.monotonic(), ""
    try:
        async with asyncio.timeout(PATIENCE):
            await ask
    except (OSError, TimeoutError) as error:
        wrong = f"{type(error).__name__}: {error}"
    samples.append((begun, time.monotonic() - begun, wrong))


async def at_rate(
    make: Callable[[], Awaitable[None]], rate: float, ended: asyncio.Event
) -> list[Sample]:
    """Ask `rate` times a second until the end; wait for the answers that are due then."""
    samples: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while not ended.is_set():
        task = asyncio.create_task(_timed(make(), samples))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += 1 / rate
        await asyncio.sleep(max(due - time.monotonic(), 0))
    await asyncio.gather(*tasks)
    return samples


async def flow(address: str, port: int, ended: asyncio.Event) -> list[Sample]:
    """One connection, a byte there and back every 20 ms until the end."""
    samples: list[Sample] = []
    begun = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(address, port)
        while not ended.is_set():
            begun = time.monotonic()
            writer.write(b".")
            async with asyncio.timeout(PATIENCE):
                if not await reader.read(1):
                    raise ConnectionError("closed")
            samples.append((begun, time.monotonic() - begun, ""))
            await asyncio.sleep(BEAT)
        writer.close()
    except (OSError, TimeoutError) as error:
        samples.append((begun, PATIENCE, f"{type(error).__name__}: {error}"))
    return samples


async def ask(what: Iterable[str]) -> None:
    """Ask each `NAME=http|dns|flow,ADDRESS,PORT or NAME,RATE` until told to end."""
    tasks = {}
    ended = asyncio.Event()
    for one in what:
        name, _, rest = one.partition("=")
        kind, address, detail, rate = rest.split(",")
        tasks[name] = asyncio.create_task(_asking(kind, address, detail, float(rate), ended))
    await _told_to_end("ready")
    ended.set()
    json.dump({name: await task for name, task in tasks.items()}, sys.stdout)


def _asking(kind: str, address: str, detail: str, rate: float, ended: asyncio.Event) -> Any:
    match kind:
        case "http":
            return at_rate(lambda: http(address, int(detail)), rate, ended)
        case "dns":
            return at_rate(lambda: dns(address, detail), rate, ended)
        case _:
            return flow(address, int(detail), ended)


async def _told_to_end(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
    ended = asyncio.Event()

    def read() -> None:
        if not os.read(0, 4096):
            ended.set()

    asyncio.get_running_loop().add_reader(0, read)
    await ended.wait()
    asyncio.get_running_loop().remove_reader(0)


# -- the cost of a packet ------------------------------------------------------------------------


def stream(address: str, port: int, seconds: float) -> dict[str, float]:
    """Bytes a second that one established connection carries."""
    with socket.create_connection((address, port), PATIENCE) as sock:
        block = memoryview(bytes(1 << 20))
        begun, total = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            total += sock.send(block)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # the other end has all of it
        return {"bytes_a_second": total / (time.monotonic() - begun)}


def _to_one_core() -> None:
    """Both ends of round trips: across cores each waits to be woken, which takes four times as long
    as what is measured, and the scheduler would choose anew in each run."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def round_trips(address: str, port: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a byte there and back on one established connection."""
    _to_one_core()
    took = []
    with socket.create_connection((address, port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            sock.send(b".")
            sock.recv(1)
            took.append(time.monotonic() - begun)
    return {"seconds": took}


def connections(address: str, port: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a connect, one after another, each closed by RST."""
    took = []
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.settimeout(PATIENCE)
            sock.connect((address, port))
            took.append(time.monotonic() - begun)
    return {"seconds": took}


def sink(port: int) -> None:
    """Swallow what `stream` sends on this port, echo on the next, accept on the one after."""
    import threading

    def swallow(sock: socket.socket) -> None:
        buffer = bytearray(1 << 20)
        while sock.recv_into(buffer):
            pass
        sock.close()

    def echo(sock: socket.socket) -> None:
        _to_one_core()  # this thread alone
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(64):
            sock.send(data)
        sock.close()

    def close(sock: socket.socket) -> None:
        sock.close()

    def accept(server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        while True:
            peer = server.accept()[0]
            try:
                answer(peer)
            except OSError:
                peer.close()

    for offset, answer in enumerate((swallow, echo, close)):
        server = socket.create_server(("0.0.0.0", port + offset), backlog=1024)  # noqa: S104
        threading.Thread(target=accept, args=(server, answer), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("serve", "ask", "sink", "stream", "trips", "connect"))
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    match given.what:
        case "serve":
            asyncio.run(serve(int(given.words[0])))
        case "ask":
            asyncio.run(ask(given.words))
        case "sink":
            sink(int(given.words[0]))
        case what:
            measure = {"stream": stream, "trips": round_trips, "connect": connections}[what]
            address, port, seconds = given.words
            json.dump(measure(address, int(port), float(seconds)), sys.stdout)


if __name__ == "__main__":
    main()

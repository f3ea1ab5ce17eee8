"""The console proxy: `python -m agent.console` keeps the sessions and starts the workers."""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path

from agent.console import configuration


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="sysvm-console-proxy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    keep = commands.add_parser("keep", help="keep the sessions, and start the workers")
    keep.add_argument("--folder", type=Path, default=configuration.FOLDER)
    keep.add_argument("--control", type=Path, required=True)
    keep.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    work = commands.add_parser("worker", help="what the keeper starts")
    work.add_argument("folder", type=Path)
    work.add_argument("link", type=int, help="the way to the keeper")
    work.add_argument("listeners", help="the sockets to accept at, as JSON")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.INFO)
    if arguments.command == "worker":
        return _work(arguments.folder, arguments.link, arguments.listeners)
    from agent.console import keeper, listening

    listeners = listening.bind(configuration.listeners(arguments.folder))
    one = keeper.Keeper(arguments.folder, arguments.control, listeners)
    try:
        asyncio.run(one.run(arguments.workers, _notify))
    except keeper.CannotBegin as error:
        logging.getLogger("console").critical("%s", error)
        return 1
    return 0


def _work(folder: Path, link: int, listeners: str) -> int:
    from agent.console import worker
    from agent.console.plugins import PluginRefused

    try:
        worker.main(folder, link, configuration.take_over(listeners))
    except (OSError, ValueError, KeyError, TypeError, PluginRefused) as error:
        logging.getLogger("console").critical("a worker cannot begin: %s", error)
        return 1
    return 0


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel:
            channel.sendto(state.encode(), address.replace("@", "\0", 1))


if __name__ == "__main__":
    sys.exit(main())

"""sysvmctl: ask and change this system VM, through the agent's Unix socket.

It stands on the standard library alone, and imports nothing of the agent but itself, so that it
starts in tens of milliseconds and still says something useful when the agent is broken. Exit
codes: 0 well, 1 the VM said no, 2 wrong usage or the agent cannot be reached.

A family of commands is a module with `add_to`, and a line in `command_line.FAMILIES`.
"""

from agent.cli.command_line import main

__all__ = ["main"]

"""Diagnostic tools: as nobody, with raw sockets and nothing else of root's."""

from agent.api.ports import MachineFailed
from agent.system.run import CommandFailed, Running

# The agent's own sandbox holds for them as well. A file's capabilities cannot add to these.
_CAPABILITIES = "-all,+net_raw"
_AS_NOBODY = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"),
    *(f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}"),
    *(f"--bounding-set={_CAPABILITIES}", "--"),
)


class Tool(Running):
    """A tool under way; its command line is told without how it gave up root's rights."""

    def __init__(self, argv: tuple[str, ...], seconds: float, longest: int) -> None:
        super().__init__((*_AS_NOBODY, *argv), timeout=seconds, longest=longest)
        self.argv = argv


def begin(argv: tuple[str, ...], seconds: float, longest: int) -> Tool:
    """Start a tool. Raises MachineFailed."""
    try:
        return Tool(argv, seconds, longest)
    except CommandFailed as error:
        raise MachineFailed(argv[0], error.reason) from error

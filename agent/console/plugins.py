"""websockify's plug-ins: token plug-ins that know targets, and auth plug-ins that know users.

They are loaded as they are. Those of websockify import what they need (requests, redis, jwcrypto)
in the middle of a look-up, where a missing module would look like an unknown token, or end the
worker: so what the classes' own source imports is looked for when they are loaded, and a plug-in
that could not work is refused at start.
"""

import ast
import importlib
import importlib.util
import inspect
import ipaddress
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from agent.console.configuration import Plugin
from agent.console.targets import Target, TargetKind


class TokenPlugin(Protocol):
    """Knows the target that belongs to a token. May block: it is called in a thread."""

    def lookup(self, token: str) -> Any:
        """[host, port], or None."""


class AuthPlugin(Protocol):
    """Knows whether a client may come in, by its header. May block: it is called in a thread."""

    def authenticate(
        self, headers: Mapping[str, str], target_host: str | None, target_port: int | None
    ) -> None:
        """Raises where it may not; websockify's AuthenticationError says with which status."""


class PluginRefused(Exception):
    """A plug-in that cannot work here."""


class Denied(Exception):
    """An auth plug-in does not let a client in."""

    def __init__(self, status: int, challenge: str = "") -> None:
        super().__init__(f"denied with {status}")
        self.status = status
        self.challenge = challenge  # what WWW-Authenticate says


def load(plugin: Plugin, method: str) -> Any:
    """The plug-in, made. Raises PluginRefused."""
    module_name, _, name = plugin.path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise PluginRefused(f"{plugin.path}: {error}") from error
    kind: Any = getattr(module, name, None)
    if not inspect.isclass(kind) or not callable(getattr(kind, method, None)):
        raise PluginRefused(f"{plugin.path} is no class with {method}()")
    missing = sorted(set(_missing(kind)))
    if missing:
        raise PluginRefused(f"{plugin.path} needs {', '.join(missing)}, which is not installed")
    try:
        make: Any = kind
        return make(plugin.source)
    except (Exception, SystemExit) as error:
        raise PluginRefused(f"{plugin.path} cannot be made: {error}") from error


def _missing(kind: type) -> Iterator[str]:
    """Modules that the source of a class, and of those it is made of, imports in vain."""
    for base in kind.__mro__:
        if base is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                root = name.partition(".")[0]
                if importlib.util.find_spec(root) is None:
                    yield root


def target(found: Any) -> Target | None:
    """What a look-up found, as a target; names are not resolved, and sockets are none.

    Raises ValueError.
    """
    if found is None:
        return None
    host, port = found
    if host == "unix_socket":
        raise ValueError("a Unix socket is no hypervisor")
    return Target(
        kind=TargetKind.VNC, address=ipaddress.ip_address(str(host).strip("[] ")), port=int(port)
    )


class Headers(dict[str, str]):
    """A header as plug-ins ask it: whatever the case."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key.lower(), default)


def authenticate(
    plugin: AuthPlugin, headers: Mapping[str, str], host: str | None, port: int | None
) -> None:
    """Ask the plug-in. Raises Denied."""
    try:
        plugin.authenticate(Headers(headers), host, port)
    except Exception as error:  # whatever a plug-in of somebody's raises is a no
        status = getattr(error, "code", 403)
        fields = getattr(error, "headers", None)
        challenge = fields.get("WWW-Authenticate", "") if isinstance(fields, dict) else ""
        if status != 401 or not challenge.isascii() or not challenge.isprintable():
            status, challenge = 403, ""
        raise Denied(status, challenge) from error

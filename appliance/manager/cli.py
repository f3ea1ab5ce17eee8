"""The commands of `sysvm manager` and `sysvm console`."""

import datetime as dt
import logging
import sys
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from agent import __version__
from appliance.errors import ApplianceError

app = typer.Typer(
    no_args_is_help=True,
    help="Run the manager: which console proxy, and which VMs there are.",
    rich_markup_mode=None,
)
token = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(token, name="token", help="Make, list and revoke tokens, in the database itself.")
console = typer.Typer(
    no_args_is_help=True, help="Open guests' consoles, by a manager.", rich_markup_mode=None
)

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="SYSVM_DATABASE",
        help="sqlite:///FILE, or postgresql://USER@HOST/NAME where several managers run.",
    ),
]
ManagerUrl = Annotated[
    str, typer.Option("--manager", envvar="SYSVM_MANAGER", help="Where the manager is.")
]
Token = Annotated[str, typer.Option("--token", envvar="SYSVM_TOKEN", help="Who asks.")]
Ca = Annotated[
    str | None, typer.Option("--ca", envvar="SYSVM_MANAGER_CA", help="Who signs its certificate.")
]
AT_HOME = "sqlite:////var/lib/sysvm-manager/manager.db"
HERE = "http://127.0.0.1:8080"


@app.command()
def serve(
    agent_ca: Annotated[Path, typer.Option(help="Who signs agents' certificates, PEM.")],
    agent_certificate: Annotated[Path, typer.Option(help="What agents are shown, PEM.")],
    agent_key: Annotated[Path, typer.Option(help="Its key, PEM.")],
    database: DatabaseUrl = AT_HOME,
    listen: Annotated[str, typer.Option(help="Where it answers.")] = "127.0.0.1:8080",
    tls_certificate: Annotated[
        Path | None, typer.Option(help="What its callers are shown, PEM; without, there is no TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    key: Annotated[
        Path, typer.Option(help="The key that secrets are sealed with; made if it is not there.")
    ] = Path("/var/lib/sysvm-manager/seal.key"),
    order: Annotated[
        str, typer.Option(help="Which proxy first: least-loaded, or configured.")
    ] = "least-loaded",
    name: Annotated[str, typer.Option(help="Its name among the managers of a database.")] = "",
    events: Annotated[
        str, typer.Option(help="Where VMs push their events (HTTPS): 0.0.0.0:8444, say.")
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="What VMs are shown that push events, PEM.")
    ] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    accept_proxies: Annotated[
        list[str] | None,
        typer.Option(
            help="A zone whose console proxies may register themselves, * for any; several times."
        ),
    ] = None,
    heartbeats: Annotated[
        str, typer.Option(help="Where VMs send heartbeats (UDP): 0.0.0.0:8445, say.")
    ] = "",
    least_agent: Annotated[
        str, typer.Option(help="The oldest agent that may be changed; 0 for any.")
    ] = __version__,
    each: Annotated[int, typer.Option(min=1, help="Sessions that a user may have.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Pushes at once.")] = 8,
    balancer: Annotated[
        str | None,
        typer.Option(help="The address of what does TLS before it, and sets X-Forwarded-For."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, help="Days that sessions, events and the audit are kept.")
    ] = 90,
) -> None:
    """Run a manager until it is told to stop."""
    from appliance.manager import serve as serving
    from appliance.manager.agents import Identity
    from appliance.manager.assign import Order
    from appliance.manager.database import Database
    from appliance.manager.manager import Settings
    from appliance.manager.seal import read_key

    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if order not in set(Order):
        raise ApplianceError(f"there is no order {order!r}", " or ".join(Order))
    settings = Settings(
        name=name or serving.default_name(),
        key=read_key(key),
        identity=Identity(agent_ca, agent_certificate, agent_key),
        order=Order(order),
        each=each,
        least_agent=least_agent,
        parallel=parallel,
        days=days,
    )
    doors = serving.Doors(
        api=serving.Endpoint.parse(listen),
        shown=_shown("--tls-certificate", tls_certificate, "--tls-key", tls_key),
        events=serving.Endpoint.parse(events) if events else None,
        shown_to_vms=_shown(
            "--certificate", certificate, "--certificate-key", certificate_key, agent_ca
        ),
        accepted=frozenset(accept_proxies or ()),
        heartbeats=serving.Endpoint.parse(heartbeats) if heartbeats else None,
        balancer=balancer,
    )
    serving.run(Database(database), settings, doors)


def _shown(
    name: str, certificate: Path | None, key_name: str, key: Path | None, ca: Path | None = None
) -> Any:
    from appliance.manager.tls import Shown

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ApplianceError(f"{name} and {key_name} go together")
    return Shown(certificate, key, ca)


# -- tokens ------------------------------------------------------------------------------------


def _database(url: str) -> Any:
    from appliance.manager.database import Database

    opened = Database(url)
    opened.migrate()
    return opened


@token.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="Whose it is; of a user's, the user.")],
    role: Annotated[str, typer.Option(help="see, use, operate, cloud or user.")],
    days: Annotated[int | None, typer.Option(min=1, help="How long it is valid.")] = None,
    database: DatabaseUrl = AT_HOME,
) -> None:
    """Make a token and print it, this once."""
    from appliance.manager import access

    if role not in set(access.Role):
        raise ApplianceError(f"there is no role {role!r}", ", ".join(access.Role))
    lifetime = None if days is None else days * 86400.0
    made = _database(database).write(
        lambda c: access.make(c, name, access.Role(role), time.time(), lifetime)
    )
    typer.echo(made.token)


@token.command("list")
def token_list(database: DatabaseUrl = AT_HOME) -> None:
    """List all tokens, without what they are."""
    from appliance.manager import access

    with _database(database).read() as connection:
        found = access.listed(connection)
    for one in found:
        over = "revoked" if one.revoked else _date(one.expires)
        typer.echo(f"{one.id}  {one.role:8}  {one.name:32}  {over}".rstrip())


@token.command("revoke")
def token_revoke(
    identity: Annotated[str, typer.Argument(help="As 'list' has it.")],
    database: DatabaseUrl = AT_HOME,
) -> None:
    """Let a token open nothing any more."""
    from appliance.manager import access

    if not _database(database).write(lambda c: access.revoke(c, identity, time.time())):
        raise ApplianceError(f"token {identity} is not there, or revoked already")


def _date(moment: float | None) -> str:
    if moment is None:
        return ""
    return "until " + dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


# -- consoles ----------------------------------------------------------------------------------


def client(manager: str, token: str, ca: str | None) -> Any:
    """Who asks the manager."""
    from appliance.manager.client import Client

    if not token:
        raise ApplianceError("there is no token", "--token, or SYSVM_TOKEN")
    return Client(manager, token, ca)


@console.command("open")
def console_open(
    vm: Annotated[str, typer.Argument(help="The guest.")],
    user: Annotated[str | None, typer.Option(help="Who sees it, where the cloud asks.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the link in a browser as well.")] = True,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """Print a link to a guest's console, and open it."""
    answer = client(manager, token, ca).ask(
        "POST", "/v1/console-sessions", {"vm": vm} | ({"user": user} if user else {})
    )
    typer.echo(answer["link"])
    if browser:
        webbrowser.open(answer["link"])


@console.command("sessions")
def console_sessions(
    ended: Annotated[bool, typer.Option("--ended", help="Those that are over.")] = False,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """List sessions."""
    found = client(manager, token, ca).ask("GET", "/v1/console-sessions", ended=ended)
    for one in found:
        moved = f"{one['to_guest'] + one['from_guest']} bytes"
        typer.echo(
            f"{one['id']}  {one['state']:8}  {one['vm']:24}  {one['user']:16}  {one['proxy']:12}  "
            f"{one['source'] or '-':15}  {moved}  {one['why']}".rstrip()
        )


@console.command("disconnect")
def console_disconnect(
    session: str, manager: ManagerUrl = HERE, token: Token = "", ca: Ca = None
) -> None:
    """End a session."""
    answer = client(manager, token, ca).ask("DELETE", f"/v1/console-sessions/{session}")
    typer.echo(f"{answer['vm']}: {answer['why']}")


@console.command("proxies")
def console_proxies(manager: ManagerUrl = HERE, token: Token = "", ca: Ca = None) -> None:
    """List console proxies with their load."""
    for one in client(manager, token, ca).ask("GET", "/v1/proxies"):
        load = f"{one['load']}/{one['soft']}/{one['hard']}"
        typer.echo(
            f"{one['name']:16}  {one['zone']:10}  {one['condition']:9}  {load:12}  {one['link']}"
            f"  {one['fault']}".rstrip()
        )


@console.command("drain")
def console_drain(
    proxy: str,
    within: Annotated[int, typer.Option(min=0, help="Seconds that sessions may go on.")] = 300,
    end: Annotated[bool, typer.Option("--end", help="Give it sessions again.")] = False,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """Give a proxy no sessions any more, and say which will end."""
    asked = client(manager, token, ca)
    path = f"/v1/proxies/{proxy}/drain"
    answer = asked.ask("DELETE", path) if end else asked.ask("POST", path, {"within": within})
    _say_ending(answer)


@console.command("restart")
def console_restart(
    proxy: str, manager: ManagerUrl = HERE, token: Token = "", ca: Ca = None
) -> None:
    """Restart a proxy's service, and say which sessions end."""
    _say_ending(client(manager, token, ca).ask("POST", f"/v1/proxies/{proxy}/restart"))


def _say_ending(answer: dict[str, Any]) -> None:
    for one in answer["sessions"]:
        typer.echo(f"{one['id']}  {one['vm']}  {one['user']}  {one['state']}")
    typer.echo(f"{len(answer['sessions'])} sessions of {answer['proxy']}")

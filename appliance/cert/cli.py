"""The commands of `sysvm cert`."""

import datetime as dt
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from appliance.errors import ApplianceError

app = typer.Typer(
    no_args_is_help=True,
    help="Make and check the console proxy's certificates, and ask its names of DNS.",
    rich_markup_mode=None,
)

Names = Annotated[
    list[str], typer.Argument(help="Names and addresses, such as '*.console.example'.")
]
Out = Annotated[Path, typer.Option(help="Where the files go, without their endings.")]
Rsa = Annotated[bool, typer.Option("--rsa", help="RSA of 3072 bits rather than P-256.")]


@app.command()
def request(names: Names, out: Out = Path("console"), rsa: Rsa = False) -> None:
    """Make a key (OUT.key) and a request that an authority signs (OUT.csr)."""
    from appliance.cert import make

    key = make.new_key(with_rsa=rsa)
    text = make.request(names, key)
    make.write(_at(out, ".key"), make.pem(key), 0o600)
    make.write(_at(out, ".csr"), text, 0o644)
    typer.echo(f"{_at(out, '.csr')} is to be signed; {_at(out, '.key')} stays here")


@app.command("self-signed")
def self_signed(
    names: Names,
    out: Out = Path("console"),
    days: Annotated[int, typer.Option(min=1, max=825, help="How long it is valid.")] = 90,
    rsa: Rsa = False,
) -> None:
    """Make a key (OUT.key) and a certificate (OUT.pem) that nobody vouches for: for a lab."""
    from appliance.cert import make

    key = make.new_key(with_rsa=rsa)
    text = make.self_signed(names, key, days, dt.datetime.now(dt.UTC))
    make.write(_at(out, ".key"), make.pem(key), 0o600)
    make.write(_at(out, ".pem"), text, 0o644)
    typer.echo(f"{_at(out, '.pem')} and {_at(out, '.key')} are there")


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Certificates, PEM, in any order.")],
    key: Annotated[Path, typer.Option(help="The private key, PEM.")],
    passphrase: Annotated[
        Path | None, typer.Option(help="A file with what the key is encrypted with.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="A name that browsers will use.")] = None,
) -> None:
    """Say everything that is wrong with a certificate, its chain and its key."""
    from agent.console import certificates

    pair = certificates.check(
        {str(file): _read(file) for file in files},
        _read(key),
        "" if passphrase is None else _read(passphrase).rstrip("\r\n"),
        wanted=name or (),
        now=dt.datetime.now(dt.UTC),
    )
    for fault in pair.faults:
        typer.echo(f"{'fault' if fault.grave else 'note'}: {fault}")
    if not pair.usable:
        raise typer.Exit(1)
    expires = "" if pair.expires is None else f", until {pair.expires:%F}"
    count = pair.chain.count("BEGIN")
    sent = "1 certificate is" if count == 1 else f"{count} certificates are"
    typer.echo(f"good for {', '.join(pair.names)}{expires}; {sent} sent")


@app.command()
def dns(
    domain: Annotated[str, typer.Argument(help="As the document has it: '*.console.example'.")],
    addresses: Annotated[list[str], typer.Argument(help="Public addresses of proxies.")],
    server: Annotated[str, typer.Option(help="The server to ask, by its address.")] = "",
) -> None:
    """Ask for the proxies' names, and say whether DNS answers as browsers need it."""
    from appliance.cert import names

    try:
        wanted = [ip_address(address) for address in addresses]
    except ValueError as error:
        raise ApplianceError(str(error)) from error
    answers = list(names.ask(domain, wanted, names.resolver(server)))
    for answer in answers:
        typer.echo(f"{'good' if answer.good else 'bad'}: {answer.name}: {answer.said}")
    if not all(answer.good for answer in answers):
        raise typer.Exit(1)


def _at(out: Path, ending: str) -> Path:
    return out.with_name(out.name + ending)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ApplianceError(f"{path} cannot be read: {error}") from error

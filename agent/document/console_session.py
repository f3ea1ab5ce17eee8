"""A console session as it is pushed, and what is wrong with one that cannot be.

Whoever pushes and the proxy that takes it share these types, as they share the document's.
"""

import enum
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from agent.document.types import (
    AnyAddress,
    AnyNetwork,
    Bool,
    DomainName,
    Int,
    Pem,
    PemKey,
    PortNumber,
    Secret,
    Section,
    Text,
    wrong,
)
from agent.engine.model import Problem

ConsoleName = Text(r"^[A-Za-z0-9][A-Za-z0-9 ._@:/+-]{0,127}$", max_length=128)
Shown = Text(r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]{0,128}$", max_length=128)
_Path = Text(r"^/[!-~]{0,1023}$", max_length=1024)
_Digest = Text(r"^[0-9a-f]{64}$", max_length=64)
_Word = Text(r"^[\u0020-\u007e\u00a0-\u00ff]{0,1024}$", max_length=1024)


class ScreenKind(enum.StrEnum):
    """How a hypervisor's screen is reached."""

    VNC = "vnc"
    CONNECT = "connect"
    WEBSOCKET = "websocket"


class ClipboardWay(enum.StrEnum):
    """Which way text may go."""

    NONE = "none"
    TO_GUEST = "to-guest"
    FROM_GUEST = "from-guest"
    BOTH = "both"


class GuestKeyboard(enum.StrEnum):
    """Keyboards that the page has (`agent/console/page/layouts.js`)."""

    US = "us"
    UK = "uk"
    DE = "de"
    CH = "ch"
    FR = "fr"
    BE = "be"
    ES = "es"
    LATAM = "latam"
    IT = "it"
    PT = "pt"
    BR = "br"
    DK = "dk"
    NO = "no"
    SE = "se"
    FI = "fi"
    NL = "nl"
    PL = "pl"
    CZ = "cz"
    HU = "hu"
    TR = "tr"
    JP = "jp"


def _no_rdp(value: object) -> object:
    if isinstance(value, str) and value in {"rdp", "hyper-v", "hyperv"}:
        raise wrong("is not built", "Hyper-V's consoles are RDP; this proxy speaks VNC alone")
    return value


class ConsoleTarget(Section):
    """A hypervisor's screen; by its address, for nothing is resolved."""

    kind: Annotated[
        ScreenKind,
        BeforeValidator(_no_rdp),
        Field(description="VNC; after an HTTP CONNECT (XenServer); in a WebSocket (ESXi)."),
    ] = ScreenKind.VNC
    address: AnyAddress
    port: PortNumber
    path: Annotated[
        str, _Path, Field(description="Of the CONNECT, or of the WebSocket with its ticket.")
    ] = "/"
    name: Annotated[
        DomainName | None,
        Field(description="The name in the hypervisor's certificate, where it is not the address."),
    ] = None


class ConsoleCredentials(Section):
    """What the proxy shows the hypervisor on the user's behalf."""

    username: Annotated[str, _Word, Secret()] = ""
    password: Annotated[
        str, _Word, Secret(), Field(description="VNC's, or XenServer's session.")
    ] = ""
    ca: Annotated[
        Pem | None,
        Field(description="Who signs the hypervisor's certificate; with it, TLS is demanded."),
    ] = None
    certificate: Annotated[Pem | None, Field(description="The proxy's own, for it.")] = None
    key: PemKey | None = None


class ConsolePolicy(Section):
    """What a session may do. Seconds; 0 is without a limit."""

    view_only: Bool = False
    clipboard: ClipboardWay = ClipboardWay.BOTH
    source: Annotated[
        AnyNetwork | None, Field(description="Where the browser has to come from.")
    ] = None
    idle: Annotated[
        Int, Field(ge=0, le=604800, description="Without anything from the user or the screen.")
    ] = 1800
    lifetime: Annotated[Int, Field(ge=0, le=604800, description="From the first opening.")] = 43200
    resume: Annotated[
        Int, Field(ge=0, le=3600, description="How long a lost browser is waited for.")
    ] = 60
    keyboard: Annotated[
        GuestKeyboard | None,
        Field(
            description="The guest's keyboard: text is typed as on it. Without, the user chooses."
        ),
    ] = None


class ConsoleSession(Section):
    """One user's view of one VM."""

    secret_sha256: Annotated[
        str,
        _Digest,
        Field(description="SHA-256 of the one-time secret, of 43 characters in base64url."),
    ]
    vm: Annotated[str, ConsoleName]
    user: Annotated[str, ConsoleName]
    title: Annotated[
        str, Shown, Field(description="What the page is called; without it, as the VM is.")
    ] = ""
    target: ConsoleTarget
    credentials: ConsoleCredentials = Field(default_factory=ConsoleCredentials)
    policy: ConsolePolicy = Field(default_factory=ConsolePolicy)
    valid: Annotated[
        Int, Field(ge=1, le=600, description="Seconds that the secret waits for its browser.")
    ] = 60


def lint(given: ConsoleSession) -> Iterator[Problem]:
    """What the types cannot say."""
    if given.target.kind is not ScreenKind.VNC:
        if given.target.path == "/":
            yield Problem("/target/path", "is missing", f"{given.target.kind} is by a path")
        if given.credentials.ca is None:
            yield Problem("/credentials/ca", "is missing", f"{given.target.kind} is over TLS")
    if (given.credentials.certificate is None) is not (given.credentials.key is None):
        missing = "key" if given.credentials.key is None else "certificate"
        yield Problem(f"/credentials/{missing}", "is missing", "both belong together")
    if given.credentials.certificate is not None and given.credentials.ca is None:
        yield Problem("/credentials/ca", "is missing", "a certificate is shown over TLS")

"""User data and metadata for the guests, over plain HTTP, by apache2.

A guest is known by its address, and comes in only with the MAC address that goes with it. What
it asks for is looked up in one map a key, `ADDRESS FILE`, whose file is content-addressed: an
object of the revision or an uploaded blob. No string of a client ever names a file or is looked
up: the key is a literal of apache's configuration, the address is the connection's.

apache looks at a map's modification time at every request (mod_rewrite, RewriteMap txt:), also
through a symlink that was flipped, so that a guest more is no reload at all. The witness is a
path of two parts, one in the configuration and one in a map, and so speaks for both.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from agent.document.site import NicRole
from agent.document.types import BlobId, Ipv4, Mac, Text
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Chain,
    Command,
    Family,
    File,
    HttpReturns,
    Probe,
    Problem,
    Reaction,
    Table,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import GUEST_SERVERS
from agent.services import (
    BLOBS,
    CURRENT,
    OBJECTS,
    Context,
    claims,
    fill,
    guest_addresses,
    openings,
    with_its_mac,
)

SECTION = "user_data"
ROLES = GUEST_SERVERS
UNIT = "apache2.service"
UNITS: frozenset[str] = frozenset({UNIT})

PORT = 80
FOLDER = "apache2"
CONFIGURATION = f"{FOLDER}/apache2.conf"
CHAIN = "user-data"  # who may come in: an address with its MAC
USER_DATA = "user-data"
LISTING = "meta-data"
_WITNESS = b"@witness@"

# A value as it is served: one line of anything that can be printed.
PrintableLine = Annotated[
    str,
    Text(r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]{0,1024}$", max_length=1024),
    Field(examples=["Medium 2x4"]),
]
PublicKeyLine = Annotated[
    str,
    Text(r"^[\u0020-\u007e]{1,16384}$", max_length=16384),
    Field(examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample ops@example"]),
]
MetadataKey = Annotated[
    str,
    Text(r"^[a-z0-9][a-z0-9_-]{0,62}$", max_length=63),
    Field(examples=["rack"]),
]


class ExtraMetadata(Base):
    """A key of management's own: a line, or an uploaded blob."""

    value: Annotated[PrintableLine | None, Field(description="The value itself.")] = None
    blob: Annotated[BlobId | None, Field(description="The uploaded blob that is the value.")] = None


def _hyphenated(name: str) -> str:
    return name.replace("_", "-")


class GuestMetadata(Base):
    """What a guest is told about itself; a key that is not given is not there."""

    model_config = ConfigDict(alias_generator=_hyphenated)

    service_offering: Annotated[
        PrintableLine | None, Field(description="Its size, in the cloud's words.")
    ] = None
    availability_zone: Annotated[PrintableLine | None, Field(description="Its zone.")] = None
    local_ipv4: Annotated[
        Ipv4 | None, Field(description="Its address; the one that it comes from by default.")
    ] = None
    local_hostname: Annotated[PrintableLine | None, Field(description="Its name.")] = None
    public_ipv4: Annotated[
        Ipv4 | None, Field(description="The address that the outside knows it by.")
    ] = None
    public_hostname: Annotated[
        PrintableLine | None, Field(description="The name that the outside knows it by.")
    ] = None
    instance_id: Annotated[
        PrintableLine | None,
        Field(description="Its identity; a guest that sees a new one sets itself up again."),
    ] = None
    vm_id: Annotated[PrintableLine | None, Field(description="Its identity in the cloud.")] = None
    public_keys: Annotated[
        tuple[PublicKeyLine, ...] | None,
        Field(max_length=64, description="SSH keys that may log in, one line each."),
    ] = None
    cloud_identifier: Annotated[PrintableLine | None, Field(description="The cloud.")] = None
    cloud_domain: Annotated[
        PrintableLine | None, Field(description="The domain of the cloud that owns it.")
    ] = None
    cloud_domain_id: Annotated[PrintableLine | None, Field(description="That domain's id.")] = None
    hypervisor_host_name: Annotated[
        PrintableLine | None, Field(description="The host that it runs on.")
    ] = None


class GuestData(Base):
    """What one guest can fetch."""

    mac: Annotated[
        Mac,
        Field(description="The guest's MAC address; nobody else gets in with its address."),
    ]
    user_data: Annotated[
        BlobId | None,
        Field(description="The uploaded blob that `latest/user-data` is; 404 without."),
    ] = None
    metadata: Annotated[
        GuestMetadata,
        Field(description="What `latest/meta-data/KEY` and `latest/KEY` are."),
    ] = GuestMetadata()
    extra: Annotated[
        Mapping[MetadataKey, ExtraMetadata],
        Field(
            max_length=64,
            description="More keys of that kind.",
            examples=[{"rack": {"value": "b12"}}],
        ),
    ] = {}


class Section(Base):
    """User data and metadata for the guests, on port 80 of the guest NICs, by apache2."""

    guests: Annotated[
        Mapping[Ipv4, GuestData],
        Field(
            description="Guests by address.",
            examples=[{"10.1.1.10": {"mac": "02:00:4c:00:00:01", "metadata": {"vm-id": "7"}}}],
        ),
    ] = {}


ABSENT = None

_KNOWN: tuple[tuple[str, str], ...] = tuple(
    (name, _hyphenated(name)) for name in GuestMetadata.model_fields()
)
_RESERVED = frozenset({USER_DATA, LISTING, *(key for _, key in _KNOWN)})


def lint(section: Section, context: Context) -> Iterator[Problem]:
    guest_nics = context.nics_of(NicRole.GUEST)
    networks = [n for nic in guest_nics for n in nic.networks(Family.V4)]
    own = {interface.ip for nic in context.nics for interface in nic.addresses}
    for address, guest in section.guests.items():
        if address in own:
            path = pointer(SECTION, "guests", address)
            yield Problem(path, f"{address} is the VM's own address")
        elif not any(address in network for network in networks):
            yield Problem(
                pointer(SECTION, "guests", address),
                f"{address} is in no guest network",
                f"one of {', '.join(map(str, networks))}"
                if networks
                else "no guest NIC has an IPv4 address",
            )
        for key, extra in guest.extra.items():
            path = pointer(SECTION, "guests", address, "extra", key)
            if key in _RESERVED:
                yield Problem(path, "is a key that has a place of its own", "in metadata")
            if (extra.value is None) is (extra.blob is None):
                yield Problem(path, "needs either a value or a blob")


@dataclass(frozen=True, slots=True)
class _Key:
    """One key: where it is looked up, and by which URLs it is asked for."""

    name: str
    pattern: str

    @property
    def map(self) -> str:
        return f"{FOLDER}/maps/{self.name}"


def _keys(section: Section) -> tuple[_Key, ...]:
    extra = {key for guest in section.guests.values() for key in guest.extra}
    names = sorted({*extra, *(key for _, key in _KNOWN)})
    return (
        _Key(USER_DATA, f"/latest/{USER_DATA}/?"),
        _Key(LISTING, f"/latest/{LISTING}/?"),
        *(_Key(name, f"/latest/(?:{LISTING}/)?{name}/?") for name in names),
    )


def render(section: Section, context: Context) -> Artifacts:
    listening = guest_addresses(context)
    if not listening:
        return Artifacts()  # nobody to serve
    keys = _keys(section)
    lookups = _Lookups()
    top = lookups.object(f"{LISTING}\n{USER_DATA}\n")
    guests = [(address, section.guests[address]) for address in sorted(section.guests, key=int)]
    for address, guest in guests:
        lookups.add(str(address), guest)
    conf = fill(
        "user_data/apache2.conf",
        witness=_WITNESS.decode(),
        current=CURRENT,
        folder=FOLDER,
        objects=OBJECTS,
        blobs=BLOBS,
        port=PORT,
        addresses=[address for _, address in listening],
        keys=keys,
        top=top,
    )
    conf = conf.replace(_WITNESS, hashlib.sha256(conf).hexdigest().encode(), 1)
    maps = [(key.map, fill("user_data/map", lines=lookups.lines[key.name])) for key in keys]
    seen = hashlib.sha256(b"\0".join(content for _, content in maps)).hexdigest()
    maps.append((f"{FOLDER}/witness", fill("user_data/map", lines=[f"maps {seen}"])))
    return Artifacts(
        files=(
            File(CONFIGURATION, conf, UNIT, Reaction.RELOAD),
            *(File(path, content, UNIT, Reaction.NONE) for path, content in maps),
        ),
        objects=lookups.objects,
        blobs=frozenset(lookups.blobs),
        units=(Unit(UNIT),),
        chains=(Chain(Family.V4, Table.FILTER, CHAIN, SECTION),),
        rules=tuple(with_its_mac(CHAIN, SECTION, address, guest.mac) for address, guest in guests),
        openings=openings(listening, PORT, SECTION, "user data", CHAIN),
        claims=claims(listening, PORT, SECTION),
    )


class _Lookups:
    """Collects the lines of the maps, and the objects that they lead to."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        self.objects: dict[str, bytes] = {}
        self.blobs: set[str] = set()
        self._named: dict[str, str] = {}

    def add(self, address: str, guest: GuestData) -> None:
        present: list[str] = []
        metadata = guest.metadata
        for key, value in [(key, getattr(metadata, field)) for field, key in _KNOWN]:
            match value:
                case str():
                    text = value
                case tuple():
                    text = "".join(f"{line}\n" for line in value)
                case None if key != "local-ipv4":
                    continue
                case None:
                    text = address
                case _:
                    text = str(value)
            self.lines[key].append(f"{address} {self.object(text)}")
            present.append(key)
        for key, extra in guest.extra.items():
            if extra.blob is not None:
                target = self._blob(extra.blob)
            else:
                target = self.object(extra.value or "")
            self.lines[key].append(f"{address} {target}")
            present.append(key)
        listing = "".join(f"{key}\n" for key in sorted(present))
        self.lines[LISTING].append(f"{address} {self.object(listing)}")
        if guest.user_data is not None:
            self.lines[USER_DATA].append(f"{address} {self._blob(guest.user_data)}")

    def object(self, text: str) -> str:
        target = self._named.get(text)
        if target is None:
            content = text.encode()
            digest = hashlib.sha256(content).hexdigest()
            self.objects[digest] = content
            target = self._named[text] = f"objects/{digest}"
        return target

    def _blob(self, digest: str) -> str:
        self.blobs.add(digest)
        return f"blobs/{digest}"


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    if not artifacts.units:
        return ()
    argv = ("apache2", "-t", "-f", f"{CURRENT}/{CONFIGURATION}")
    return (Command(argv, path=pointer(SECTION)),)


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    if not artifacts.units:
        return ()
    conf, maps = artifacts.files[0], artifacts.files[-1]
    prefix = next(w for w in conf.content.decode().split() if w.startswith('"^/witness/'))
    digest = prefix.removeprefix('"^/witness/').partition("/")[0]
    seen = maps.content.decode().split()[-1]
    return (
        UnitActive(UNIT),
        *(
            HttpReturns(UNIT, address, PORT, f"/witness/{digest}/{seen}", status=204)
            for _, address in guest_addresses(context)
        ),
    )


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", f"{CURRENT}/{CONFIGURATION}")),
    )

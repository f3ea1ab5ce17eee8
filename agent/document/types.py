"""Constrained types that sections are made of.

No string of a document is free text: each has a pattern, an enumeration or an address's form,
so that no newline or control character can reach a template, a command or a file name. Values
are canonical: the same address has one spelling, so that a map keyed by it has one entry for it.
"""

import dataclasses
import functools
import ipaddress
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, dataclass_transform

if "pydantic.plugin._loader" not in sys.modules:
    # pydantic would read through every installed package for plug-ins, of which there are none;
    # what it takes to do so (importlib.metadata, zipfile, e-mail) comes to 2 MiB.
    _loader: Any = ModuleType("pydantic.plugin._loader")
    _loader.get_plugins = lambda: ()
    sys.modules[_loader.__name__] = _loader

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    StrictBool,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from agent.engine.model import Ports

__all__ = [
    "REDACTED", "AnyAddress", "AnyInterface", "AnyNetwork", "BlobId", "Bool", "DomainName",
    "HostName", "Id", "Int", "Ipv4", "Ipv4Net", "Ipv6", "Ipv6Net", "Mac", "Pem", "PemKey",
    "PortNumber", "PortRange", "Secret", "Section", "Text", "wrong",
]  # fmt: skip


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Text:
    """What a string looks like: the whole of it matches `pattern`, which begins with ^ and ends
    with $ as a JSON Schema wants it.

    Python's own expressions, and not pydantic's: those are compiled once for each place that they
    stand in, with tables and caches for each, which came to a fifth of the agent's memory.
    """

    pattern: str
    max_length: int

    def __get_pydantic_core_schema__(self, _source: Any, _handler: object) -> CoreSchema:
        matches = re.compile(self.pattern).fullmatch  # one that ends with $ would take a newline

        def check(value: str) -> str:
            if matches(value) is None:
                raise PydanticKnownError("string_pattern_mismatch", {"pattern": self.pattern})
            return value

        text = core_schema.str_schema(strict=True, max_length=self.max_length)
        return core_schema.no_info_after_validator_function(check, text)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}


# What stands for a secret where a document is shown. As a secret it is refused.
REDACTED = "<secret>"


@dataclass(frozen=True, slots=True)
class Secret:
    """Marks a type whose values come in and never go out (agent.document.secrets)."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_not_redacted, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "writeOnly": True, "x-secret": True}


def _not_redacted(value: object) -> object:
    if value == REDACTED:
        raise wrong("is what stands for a secret, not the secret", "the secret, or leave it alone")
    return value


class _Nothing(dict[Any, Any]):
    """An empty mapping that may be a field's default, because it is hashable."""

    def __hash__(self) -> int:  # type: ignore[override]  # nothing is ever put into it
        return 0

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: object) -> CoreSchema:
        return core_schema.dict_schema()


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _SectionType(type):
    """Makes a frozen, slotted dataclass of every section.

    A large document has ten thousand of them: as pydantic's models, with a dictionary and a set
    each, they would take three times the memory.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if "__slots__" in names:  # the base; or dataclasses, making the class anew with its slots
            return super().__new__(cls, name, bases, names)
        config = ConfigDict(extra="forbid", defer_build=True)
        config.update(names.pop("model_config", {}))
        for key in names.get("__annotations__", ()):
            if names.get(key) == {}:
                names[key] = _Nothing()
        plain = super().__new__(cls, name, bases, names)
        wrap: Any = pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=config)
        return wrap(plain)


class Section(metaclass=_SectionType):
    """Base of every object in a document: nothing unknown, nothing changeable."""

    __slots__ = ()

    @classmethod
    def model_validate(cls, value: object) -> Self:
        """The section that this JSON value is. Raises pydantic.ValidationError."""
        section: Self = _adapter(cls).validate_python(value)
        return section

    def model_dump(self) -> Any:
        """The JSON value that this section is, without what is null."""
        return _adapter(type(self)).dump_python(self, mode="json", exclude_none=True)

    def model_copy(self, update: Mapping[str, object]) -> Self:
        """This section with some fields changed; the new values are taken as valid."""
        changed = object.__new__(type(self))
        for name in self.model_fields():
            object.__setattr__(changed, name, update.get(name, getattr(self, name)))
        return changed

    @classmethod
    def model_fields(cls) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in dataclasses.fields(cls))


@functools.cache
def _adapter(of: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(of)


Bool = StrictBool


# Integers are JSON's own, never a string or a boolean; give bounds with Field(ge=…, le=…).
Int = Annotated[int, Field(strict=True)]

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

# The host part of a name (RFC 1123): letters, digits, hyphens, at most 63.
HostName = Annotated[
    str,
    Text(f"^{LABEL}$", max_length=63),
    Field(examples=["vm1"]),
]
# A domain name (RFC 1123), without the closing dot, at most 253 characters.
DomainName = Annotated[
    str,
    Text(rf"^{LABEL}(?:\.{LABEL})*$", max_length=253),
    Field(examples=["net1.example.internal"]),
]
# A name that management chooses for an entry of a map; it appears in firewall comments.
Id = Annotated[
    str,
    Text(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", max_length=63),
    Field(examples=["web"]),
]
# The SHA-256 of an uploaded blob, in lower-case hexadecimal.
BlobId = Annotated[str, Text(r"^[0-9a-f]{64}$", max_length=64)]


def _pem(label: str) -> Text:
    """One or more PEM blocks (RFC 7468) of a kind; what is inside is checked where it is used."""
    return Text(
        rf"^(?:-----BEGIN {label}-----\n(?:[A-Za-z0-9+/=]{{1,76}}\n)+-----END {label}-----\n?)+$",
        max_length=262144,
    )


# Certificates, revocation lists: no key is among them, so that none is told to anybody by mistake.
Pem = Annotated[str, _pem("(?![A-Z0-9 ]*PRIVATE KEY)[A-Z0-9 ]{1,40}")]
PemKey = Annotated[str, _pem("[A-Z0-9 ]{1,40}"), Secret()]

# A line of authorized_keys(5) without options: kind, key, and a comment.
AuthorizedKey = Annotated[
    str,
    Text(
        r"^(?:sk-)?(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521))"
        r"(?:@openssh\.com)? [A-Za-z0-9+/]{40,8192}={0,2}(?: [\u0020-\u007e]{1,255})?$",
        max_length=8600,
    ),
    Field(
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExample ops"]
    ),
]


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """The error a validator raises; `hint` says what would be right."""
    return PydanticCustomError("sysvm", "{message}", {"message": message, "hint": hint})


def _address_type(
    parse: Callable[[str], T], what: str, example: str, pattern: str, form: str
) -> Any:
    """A string type that `parse` (of the ipaddress module) understands, canonical spelling only.

    A document says the same few networks over and over: the last ones are remembered.
    """
    remembered = functools.lru_cache(64)(parse)

    def check(value: object) -> T:
        if not isinstance(value, str):
            if isinstance(value, _ADDRESS_CLASSES):  # a value of ours, from a test or a default
                return value  # type: ignore[return-value]
            raise wrong(f"is not {what}", f"a string such as {example!r}")
        try:
            parsed = remembered(value)
        except ValueError:
            host_bits = _without_host_bits(value)
            if host_bits is not None and "network" in what:
                raise wrong(f"has host bits set, {what} has none", f"{host_bits}") from None
            raise wrong(f"is not {what}", f"such as {example}") from None
        if getattr(parsed, "ipv4_mapped", None) is not None:
            raise wrong("is an IPv4 address in IPv6 clothing", str(parsed.ipv4_mapped))  # type: ignore[attr-defined]
        if getattr(parsed, "scope_id", None):
            raise wrong("has a zone, which is one host's own affair", value.split("%", 1)[0])
        if str(parsed) != value:
            raise wrong("is not in canonical form", str(parsed))
        return parsed

    schema = {"type": "string", "format": form, "pattern": pattern, "examples": [example]}
    return Annotated[
        parse if isinstance(parse, type) else Any,
        BeforeValidator(check),
        PlainSerializer(str, return_type=str),
        WithJsonSchema(schema),
    ]


_ADDRESS_CLASSES = (
    IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface,
)  # fmt: skip


def _without_host_bits(value: str) -> str | None:
    if "/" not in value:
        return None
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        return None


def _interface(value: str) -> IPv4Interface | IPv6Interface:
    if "/" not in value:
        raise ValueError
    return ipaddress.ip_interface(value)


def _network(value: str) -> IPv4Network | IPv6Network:
    if "/" not in value:
        raise ValueError
    return ipaddress.ip_network(value)


def _network4(value: str) -> IPv4Network:
    if "/" not in value:
        raise ValueError
    return IPv4Network(value)


def _network6(value: str) -> IPv6Network:
    if "/" not in value:
        raise ValueError
    return IPv6Network(value)


_V4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_V6 = r"[0-9a-f:]{2,39}"

if TYPE_CHECKING:
    Ipv4 = IPv4Address
    Ipv6 = IPv6Address
    AnyAddress = IPv4Address | IPv6Address
    Ipv4Net = IPv4Network
    Ipv6Net = IPv6Network
    AnyNetwork = IPv4Network | IPv6Network
    AnyInterface = IPv4Interface | IPv6Interface
    Mac = str
    PortRange = Ports
    PortNumber = int
else:
    Ipv4 = _address_type(IPv4Address, "an IPv4 address", "10.1.1.10", f"^{_V4}$", "ipv4")
    Ipv6 = _address_type(IPv6Address, "an IPv6 address", "2001:db8::10", f"^{_V6}$", "ipv6")
    AnyAddress = _address_type(
        ipaddress.ip_address, "an IP address", "10.1.1.10", f"^(?:{_V4}|{_V6})$", "ip"
    )
    Ipv4Net = _address_type(
        _network4, "an IPv4 network", "10.1.1.0/24", f"^{_V4}/[0-9]{{1,2}}$", "ipv4-network"
    )
    Ipv6Net = _address_type(
        _network6, "an IPv6 network", "2001:db8::/64", f"^{_V6}/[0-9]{{1,3}}$", "ipv6-network"
    )
    AnyNetwork = _address_type(
        _network, "an IP network", "10.1.1.0/24", f"^(?:{_V4}|{_V6})/[0-9]{{1,3}}$", "ip-network"
    )
    # An address with its network's prefix length, as an interface carries it.
    AnyInterface = _address_type(
        _interface,
        "an address with its prefix length",
        "10.1.1.1/24",
        f"^(?:{_V4}|{_V6})/[0-9]{{1,3}}$",
        "ip-interface",
    )

    def _mac(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", value):
            if int(value[:2], 16) & 1:
                raise wrong("is a multicast MAC address", "a NIC has a unicast one")
            return value
        if isinstance(value, str) and re.fullmatch(
            r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", value
        ):
            raise wrong("is not in canonical form", value.lower().replace("-", ":"))
        raise wrong("is not a MAC address", "such as 02:00:4c:00:00:01")

    # A unicast MAC address, lower case, colons.
    Mac = Annotated[
        str,
        BeforeValidator(_mac),
        WithJsonSchema(
            {
                "type": "string",
                "pattern": "^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$",
                "examples": ["02:00:4c:00:00:01"],
            }
        ),
    ]

    def _ports(value: object) -> Ports:
        if isinstance(value, Ports):
            return value
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise wrong("is not a port or a range of ports", 'such as 80 or "8000-8100"')
        found = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", str(value))
        if not found:
            raise wrong("is not a port or a range of ports", 'such as 80 or "8000-8100"')
        ports = Ports(int(found[1]), int(found[2] or found[1]))
        if ports.last > 65535:
            raise wrong("is not a port", "ports go from 1 to 65535")
        if ports.first > ports.last:
            raise wrong("is a range that ends before it begins", f"{ports.last}-{ports.first}")
        return ports

    # One port (80) or an inclusive range ("8000-8100").
    PortRange = Annotated[
        Ports,
        BeforeValidator(_ports),
        PlainSerializer(str, return_type=str),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 65535},
                    {"type": "string", "pattern": "^[1-9][0-9]{0,4}(?:-[1-9][0-9]{0,4})?$"},
                ],
                "examples": [80, "8000-8100"],
            }
        ),
    ]
    PortNumber = Annotated[int, Field(strict=True, ge=1, le=65535, examples=[443])]

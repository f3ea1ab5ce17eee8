"""From a document to everything that it wants of the machine, or every problem with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeVar

from agent.document.boot import BootConfig
from agent.document.document import Document, InvalidDocument
from agent.engine.model import (
    ACCEPT,
    Artifacts,
    Chain,
    Claim,
    Command,
    Desired,
    Family,
    Jump,
    Link,
    Opening,
    Probe,
    Problem,
    Protocol,
    Rule,
    Table,
)
from agent.roles import baseline
from agent.services import Context, Service, discover
from agent.services.firewall import SERVICES_CHAIN

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Part:
    """What a service made of its section, kept for as long as neither it nor the site changes."""

    text: bytes | None  # of the section; None where the document has none
    context: Context
    problems: tuple[Problem, ...]
    artifacts: Artifacts
    commands: tuple[Command, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """What a document comes upon: the time (seconds since the epoch), and sections that run."""

    now: float
    running: Mapping[str, object]


class Composer:
    """Composes documents, and makes anew only the parts of services whose section changed."""

    def __init__(self, services: Mapping[str, Service] | None = None) -> None:
        self._services = discover() if services is None else services
        self._parts: dict[str, _Part] = {}

    def compose(
        self,
        document: Document,
        links: Sequence[Link],
        boot: BootConfig | None,
        push: Push | None = None,
    ) -> Desired:
        """Everything that the document wants. Raises InvalidDocument with every problem.

        Of a `push`, what is new in it is held against the clock as well; what ran before comes up
        again whatever has run out meanwhile.
        """
        context = baseline.context(document, links, boot)
        problems = list(baseline.lint(document, links, boot))
        parts: list[_Part] = []
        for name in document.sections:
            part = self._part(name, document, context, render=not problems)
            problems += part.problems
            if push is not None and document.texts.get(name) != push.running.get(name):
                problems += self._untimely(name, document, push.now)
            parts.append(part)
            document.sections.forget(name)  # ten times the size of what was made of it
        if not problems:
            problems += _conflicts([claim for part in parts for claim in part.artifacts.claims])
        if problems:
            raise InvalidDocument(problems)
        all_artifacts = [baseline.render(document, context), *(part.artifacts for part in parts)]
        return _join(
            all_artifacts,
            commands=[command for part in parts for command in part.commands],
            probes=[probe for part in parts for probe in part.probes],
            owned_units=frozenset().union(*(s.UNITS for s in self._services.values())),
        )

    def _untimely(self, name: str, document: Document, now: float) -> Iterable[Problem]:
        judge = getattr(self._services[name], "untimely", None)
        return () if judge is None else judge(document.sections[name], now)

    def lint(
        self, document: Document, links: Sequence[Link], boot: BootConfig | None
    ) -> tuple[Problem, ...]:
        """What is wrong with the sections of a document that is known to be invalid elsewhere."""
        context = baseline.context(document, links, boot)
        problems = list(baseline.lint(document, links, boot))
        for name, section in document.sections.items():
            problems += self._services[name].lint(section, context)
        return tuple(problems)

    def inspections(
        self, document: Document, links: Sequence[Link], boot: BootConfig | None
    ) -> Mapping[str, tuple[Command, ...]]:
        """What a diagnostics bundle takes of each service."""
        context = baseline.context(document, links, boot)
        return {
            name: tuple(self._services[name].inspect(section, context))
            for name, section in document.sections.items()
        }

    def _part(self, name: str, document: Document, context: Context, *, render: bool) -> _Part:
        text = document.texts.get(name)
        known = self._parts.get(name)
        if known is not None and known.text == text and known.context == context:
            return known
        service = self._services[name]
        section: Any = document.sections[name]
        problems = tuple(service.lint(section, context))
        if problems or not render:
            return _Part(text, context, problems, Artifacts(), (), ())
        artifacts = service.render(section, context)
        part = _Part(
            text,
            context,
            (),
            artifacts,
            tuple(
                replace(command, reads=tuple(file.path for file in artifacts.files))
                for command in service.check(section, context, artifacts)
            ),
            service.probe(section, context, artifacts),
        )
        self._parts[name] = part
        return part


def _conflicts(claims: Sequence[Claim]) -> Iterable[Problem]:
    """Ports of an address that two entries want: a Problem at the later one, naming the other."""
    by_address: dict[object, list[Claim]] = {}
    for claim in claims:
        by_address.setdefault(claim.address, []).append(claim)
    for group in by_address.values():
        whole = [claim for claim in group if claim.ports is None]
        for claim in whole:
            for other in group:
                if other is not claim and _same_protocol(claim, other):
                    yield Problem(other.path, f"wants a port of {claim.address}, all of which "
                                  f"{claim.path} has")  # fmt: skip
        for protocol in {claim.protocol for claim in group if claim.ports is not None}:
            ranges = sorted(
                (claim.ports.first, claim.ports.last, claim.path)
                for claim in group
                if claim.ports is not None and claim.protocol is protocol
            )
            last, owner = 0, ""
            for first, end, path in ranges:
                if first <= last:
                    address = group[0].address
                    yield Problem(path, f"wants {protocol} port {first} of {address}, which "
                                  f"{owner} has")  # fmt: skip
                if end > last:
                    last, owner = end, path


def _same_protocol(one: Claim, other: Claim) -> bool:
    return one.protocol is None or other.protocol is None or one.protocol is other.protocol


def _join(
    parts: Sequence[Artifacts],
    *,
    commands: Sequence[Command],
    probes: Sequence[Probe],
    owned_units: frozenset[str],
) -> Desired:
    return Desired(
        files=_one_owner("file", ((f.path, f) for p in parts for f in p.files)),
        objects={key: data for p in parts for key, data in p.objects.items()},
        blobs=frozenset().union(*(p.blobs for p in parts)),
        units=_one_owner("unit", ((u.name, u) for p in parts for u in p.units)),
        owned_units=owned_units,
        links=_one_owner("link", ((x.name, x) for p in parts for x in p.links)),
        addresses=frozenset(a for p in parts for a in p.addresses),
        routes=frozenset(r for p in parts for r in p.routes),
        policy_rules=frozenset(r for p in parts for r in p.policy_rules),
        sysctls=_one_owner("sysctl", ((s.key, s) for p in parts for s in p.sysctls)),
        sets={s.name: s for p in parts for s in p.sets},  # equal names hold equal members
        chains=tuple(_chains(parts)),
        rules=tuple(
            [rule for p in parts for rule in p.rules]
            + [rule for p in parts for opening in p.openings for rule in _opening(opening)]
        ),
        connections=_one_owner("connection", ((c.name, c) for p in parts for c in p.connections)),
        leases=frozenset(lease for p in parts for lease in p.leases),
        commands=tuple(commands),
        probes=tuple(probes),
    )


def _one_owner(what: str, pairs: Iterable[tuple[str, T]]) -> Mapping[str, T]:
    """Two services that want the same thing are a mistake of ours, which no document can cause."""
    found: dict[str, T] = {}
    for key, value in pairs:
        if found.setdefault(key, value) is not value:
            raise TypeError(f"two services want the {what} {key}")
    return found


def _chains(parts: Sequence[Artifacts]) -> Iterable[Chain]:
    owners: dict[tuple[Family, Table, str], str] = {}
    for part in parts:
        for chain in part.chains:
            key = chain.family, chain.table, chain.name
            if owners.setdefault(key, chain.owner) != chain.owner:
                raise TypeError(f"{chain.owner} and {owners[key]} want the chain {chain.name}")
            yield chain


def _opening(opening: Opening) -> Iterable[Rule]:
    for family in opening.families:
        if opening.destination is not None and opening.destination.version != family:
            continue
        destination = None
        if opening.destination is not None:
            destination = (
                IPv4Network(opening.destination)
                if opening.destination.version == 4
                else IPv6Network(opening.destination)
            )
        yield Rule(
            family=family,
            table=Table.FILTER,
            chain=SERVICES_CHAIN,
            target=Jump(opening.gate) if opening.gate else ACCEPT,
            owner=opening.owner,
            comment=opening.comment,
            in_nic=opening.nic,
            protocol=Protocol(opening.protocol),
            ports=opening.ports,
            destination=destination,
            sets=opening.sets,
        )

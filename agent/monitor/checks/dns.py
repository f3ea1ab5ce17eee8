"""DNS: every name of the document is answered rightly, on every address that guests ask.

Of many names a sample is asked in each round, another one each time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from agent.engine.model import Desired, DnsAnswers, IPAddress, IPNetwork, pointer
from agent.monitor.checks import Check, Finding, Question, Round, failed, passed, skipped
from agent.monitor.health import Level
from agent.services import dhcp_dns

AT_MOST = 200  # questions in a round
NAMES = f"{dhcp_dns.FOLDER}/names"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question, and what the answer has to be."""

    question: Question
    addresses: frozenset[str]


def names(content: bytes) -> Mapping[str, tuple[IPAddress, ...]]:
    """Addresses by name, from the file that dnsmasq reads."""
    found: dict[str, tuple[IPAddress, ...]] = {}
    for line in content.decode().splitlines():
        words = line.split()
        if len(words) >= 2 and not line.startswith("#"):
            found[words[1]] = (*found.get(words[1], ()), ip_address(words[0]))
    return found


def questions(
    names: Mapping[str, Sequence[IPAddress]],
    servers: Sequence[IPAddress],
    networks: Sequence[IPNetwork],
    turn: int = 0,
) -> tuple[tuple[Wanted, ...], int]:
    """What to ask in this round, and how many questions there would be in all."""
    total = sum(len({a.version for a in addresses}) for addresses in names.values()) * len(servers)
    step = -(-total // AT_MOST) or 1
    every = _questions(names, servers, networks)
    return tuple(q for number, q in enumerate(every) if (number + turn) % step == 0), total


def _questions(
    names: Mapping[str, Sequence[IPAddress]],
    servers: Sequence[IPAddress],
    networks: Sequence[IPNetwork],
) -> Iterator[Wanted]:
    for name, addresses in names.items():
        for server in servers:
            here = next((n for n in networks if server in n), None)
            for version, kind in ((4, "A"), (6, "AAAA")):
                own = [a for a in addresses if a.version == version]
                # A guest is told those of its own network, where there are any (localise-queries).
                near = [
                    a for a in own if here is not None and isinstance(a, IPv4Address) and a in here
                ]
                if own:
                    yield Wanted(Question(server, name, kind), frozenset(map(str, near or own)))


def judge(
    asked: Sequence[Wanted],
    answers: Sequence[frozenset[str] | str],
    total: int,
    paths: Mapping[str, str],
) -> Finding:
    """`paths` is where the document has each name."""
    wrong: list[tuple[str, str]] = []
    for wanted, answer in zip(asked, answers, strict=True):
        if answer == wanted.addresses:
            continue
        question = wanted.question
        said = answer if isinstance(answer, str) else ", ".join(sorted(answer)) or "nothing"
        path = paths.get(question.name, f"/{dhcp_dns.SECTION}")
        right = ", ".join(sorted(wanted.addresses))
        wrong.append((path, f"{question.name} at {question.server}: {said}, not {right}"))
    sample = f"a sample of {len(asked)} of {total}" if len(asked) < total else f"all {total}"
    if wrong:
        named = (f"{path} ({said})" for path, said in wrong)
        return failed(
            f"{len(wrong)} of {len(asked)} answers are wrong ({sample})", named, wrong[0][0]
        )
    return passed(f"{sample} answers are right")


def paths(text: bytes, names: Mapping[str, object]) -> Mapping[str, str]:
    """Where the document's section has each of these names; the VM's own are in the site."""
    section = json.loads(text)
    hosts = {host["name"].lower(): mac for mac, host in section.get("hosts", {}).items()}
    records = section.get("dns", {}).get("records", {})
    found = {}
    for name in names:
        short = name.partition(".")[0].lower()
        if name in records or short in records:
            key = name if name in records else short
            found[name] = pointer(dhcp_dns.SECTION, "dns", "records", key)
        elif short in hosts:
            found[name] = pointer(dhcp_dns.SECTION, "hosts", hosts[short], "name")
        elif short == dhcp_dns.DATA_SERVER:
            found[name] = pointer(dhcp_dns.SECTION, "dns", "data_server")
        else:
            found[name] = "/site/hostname"
    return found


def servers(desired: Desired) -> tuple[IPAddress, ...]:
    """The addresses that guests ask."""
    return tuple(p.server for p in desired.probes if isinstance(p, DnsAnswers))


def run(given: Round) -> Finding:
    absent = given.absent(dhcp_dns.UNIT)
    desired, document = given.desired, given.document
    if absent is not None or desired is None or document is None:
        return absent or skipped("nothing has been applied yet")
    known = names(desired.files[NAMES].content)
    networks = [a.interface.network for a in desired.addresses]
    asked, total = questions(known, servers(desired), networks, given.turn)
    if not asked:
        return skipped("there is no name to ask for")
    answers = given.machine.resolve([one.question for one in asked])
    right = all(a == one.addresses for a, one in zip(answers, asked, strict=True))
    text = document.texts.get(dhcp_dns.SECTION, b"{}")
    return judge(asked, answers, total, {} if right else paths(text, known))


CHECKS = (Check("dns", Level.ADVANCED, run),)

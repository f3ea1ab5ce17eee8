"""Whether the DNS of a console domain answers as browsers need it.

Under `*.console.example` every address has a name of its own (`agent.console.names`), so the
domain's DNS has to answer 203-0-113-7.console.example with 203.0.113.7: by a record for each, or a
server that computes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import dns.exception
import dns.resolver

from agent.console.names import name as name_of
from agent.console.targets import Address

# A name's records of a kind (A, AAAA), none where there are none. Raises LookupError where nobody
# answers.
Resolve = Callable[[str, str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A name that was asked for, and what came."""

    name: str
    good: bool
    said: str


def ask(domain: str, addresses: Sequence[Address], resolve: Resolve) -> Iterator[Answer]:
    """Each address's name. A plain name may also lead to a load balancer, which is said."""
    for address in addresses:
        name = name_of(address, domain)
        try:
            found = resolve(name, "A" if address.version == 4 else "AAAA")
        except LookupError as error:
            yield Answer(name, good=False, said=str(error))
            continue
        if str(address) in found:
            yield Answer(name, good=True, said=", ".join(found))
        elif not found:
            yield Answer(name, good=False, said="there is no such name")
        elif domain.startswith("*."):
            yield Answer(name, good=False, said=f"{', '.join(found)}, not {address}")
        else:
            yield Answer(
                name, good=True, said=f"{', '.join(found)}: a load balancer's, if it is one"
            )


def resolver(server: str = "") -> Resolve:
    """DNS as this machine has it, or of one server."""
    asked = dns.resolver.Resolver(configure=not server)
    if server:
        asked.nameservers = [server]
    asked.lifetime = 5.0

    def resolve(name: str, kind: str) -> Sequence[str]:
        try:
            return sorted(record.to_text() for record in asked.resolve(name, kind))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return ()
        except dns.exception.DNSException as error:
            raise LookupError(str(error) or "nobody answers") from error

    return resolve

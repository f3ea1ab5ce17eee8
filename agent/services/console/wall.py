"""What goes out of a console proxy: nothing to a guest's own address, and otherwise screens alone.

Whoever takes the proxy over has its user, and with that reaches neither guests, nor management, nor
the agent on loopback. What comes in is answered; what this user opens ends here, unless it goes to
a hypervisor's screen. What others in the VM open (time, names, events, an operator) is none of
the proxy's, and still never goes to a guest.
"""

from collections.abc import Sequence
from typing import Unpack

from agent.engine.model import (
    ACCEPT,
    DROP,
    AddressSet,
    Chain,
    Family,
    IPNetwork,
    Jump,
    Ports,
    Protocol,
    Rule,
    RuleMatch,
    SetMatch,
    Table,
    Verdict,
    pointer,
)
from agent.services import sources

CHAIN = "console-out"


class Wall:
    """Chains, rules and sets: `user` opens connections to these networks and ports, none else."""

    def __init__(
        self,
        section: str,
        user: str,
        networks: Sequence[IPNetwork],
        ports: Sequence[Ports],
        guests: Sequence[IPNetwork],
    ) -> None:
        self._section = section
        self.chains: tuple[Chain, ...] = ()
        self.rules: tuple[Rule, ...] = ()
        self.sets: tuple[AddressSet, ...] = ()
        to_guests, to_screens = pointer(section, "guest_networks"), pointer(section, "networks")
        for family in Family:
            self.chains += (
                Chain(family, Table.FILTER, "OUTPUT", section, "ACCEPT"),
                Chain(family, Table.FILTER, CHAIN, section),
            )
            states = ("RELATED", "ESTABLISHED")
            self._rule(family, "OUTPUT", ACCEPT, "sysvm: established", states=states)
            if (match := self._to(guests, family)) is not None:
                self._rule(family, "OUTPUT", DROP, to_guests, **match)
            opens = "sysvm: what the console proxy opens"
            self._rule(family, "OUTPUT", Jump(CHAIN), opens, user=user)
            if (match := self._to(networks, family)) is not None:
                match["protocol"] = Protocol.TCP
                for one in ports:
                    match["ports"] = one
                    self._rule(family, CHAIN, ACCEPT, to_screens, **match)
            self._rule(family, CHAIN, DROP, "sysvm: no screen")

    def _rule(
        self,
        family: Family,
        chain: str,
        target: Verdict | Jump,
        comment: str,
        **match: Unpack[RuleMatch],
    ) -> None:
        self.rules += (
            Rule(
                family=family,
                table=Table.FILTER,
                chain=chain,
                target=target,
                owner=self._section,
                comment=comment,
                **match,
            ),
        )

    def _to(self, networks: Sequence[IPNetwork], family: Family) -> RuleMatch | None:
        """Matches packets to these networks; None where none of them is of the family."""
        found = sources(networks, family, self._section) if networks else None
        if found is None:
            return None
        network, members = found
        if members is None:
            return {"destination": network}
        self.sets += (members,)
        return {"sets": (SetMatch(members.name, "dst"),)}

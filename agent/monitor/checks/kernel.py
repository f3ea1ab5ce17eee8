"""What the kernel holds against what the revision wants: forwards, firewall, network.

The engine's own difference is what is judged, made of the same canonical text as a push: there is
no second reader that could see it otherwise.
"""

import re
from collections.abc import Iterator, Sequence

from agent.document.site import Site
from agent.engine.model import (
    AddAddress,
    AddPolicyRule,
    AddRoute,
    Plan,
    PutSet,
    PutTable,
    RemoveAddress,
    RemovePolicyRule,
    RemoveRoute,
    RemoveSet,
    Rule,
    SetLink,
    SetSysctl,
    Step,
    Table,
    pointer,
)
from agent.engine.plan import describe
from agent.monitor.checks import Check, Finding, Round, failed, passed, skipped, warning
from agent.monitor.health import Level

_COMMENT = re.compile(r'--comment (?:"([^"]*)"|(\S+))')
_LINE = ("-A ", ":")


def _path(line: str) -> str:
    """Where in the document a rule comes from; empty where it is the frame's."""
    found = _COMMENT.search(line)
    said = (found[1] or found[2]) if found else ""
    return said if said.startswith("/") else ""


def missing_rules(step: PutTable) -> Iterator[tuple[str, str]]:
    """Rules and chains that the kernel has not, with their places in the document."""
    there = set(step.was.splitlines())
    for line in step.text.splitlines():
        if line.startswith(_LINE) and line not in there:
            yield _path(line), _said(step, line)


def extra_rules(step: PutTable) -> Iterator[str]:
    """Rules and chains that are not ours."""
    wanted = set(step.text.splitlines())
    for line in step.was.splitlines():
        if line.startswith(_LINE) and line not in wanted:
            yield _said(step, line)


def _said(step: PutTable, line: str) -> str:
    return f"ipv{int(step.family)} {step.table}: {line}"


def judge_rules(steps: Sequence[Step], what: str) -> Finding:
    """What of the firewall is missing fails; what somebody added is a warning."""
    missing: list[tuple[str, str]] = []
    extra: list[str] = []
    for step in steps:
        match step:
            case PutTable():
                missing += missing_rules(step)
                extra += extra_rules(step)
                if step.text != step.was and not missing and not extra:
                    extra.append(f"ipv{int(step.family)} {step.table}: another order of the rules")
            case PutSet(wanted, was):
                gone = wanted.members - (was.members if was else frozenset())
                path = f"/{wanted.owner}" if wanted.owner else ""
                missing += [(path, f"set {wanted.name}: {one}") for one in sorted(gone)]
                missing += [(path, f"set {wanted.name}")] if was is None and not gone else []
                more = (was.members if was else frozenset()) - wanted.members
                extra += [f"set {wanted.name}: {one}" for one in sorted(more)]
            case RemoveSet(there):
                extra.append(f"set {there.name}")
            case _:
                pass
    if missing:
        named = (f"{path} ({said})" if path else said for path, said in missing)
        first = next((path for path, _ in missing if path), "")
        return failed(f"the kernel lacks {len(missing)} of {what}", named, first)
    if extra:
        return warning(f"somebody has changed {what}: sysvmctl drift", extra)
    return passed(f"the kernel has {what}")


def forward_steps(plan: Plan) -> tuple[Step, ...]:
    return tuple(s for s in plan.steps if isinstance(s, PutTable) and s.table is Table.NAT)


def firewall_steps(plan: Plan) -> tuple[Step, ...]:
    return tuple(
        s
        for s in plan.steps
        if isinstance(s, PutSet | RemoveSet)
        or (isinstance(s, PutTable) and s.table is not Table.NAT)
    )


def place(step: Step, site: Site | None) -> str:
    """Where in the document a part of the network stands; empty where it is the VM's own."""
    nics = site.nics.items() if site else ()
    match step:
        case SetLink(link):
            return next((_nic(mac) for mac, _ in nics if mac == link.mac), "")
        case AddAddress(address):
            for mac, nic in nics:
                if address.interface in nic.addresses:
                    return pointer("site", "nics", mac, "addresses", address.interface)
        case AddRoute(route):
            for mac, nic in nics:
                for field in ("gateway", "gateway_ipv6"):
                    if route.destination.prefixlen == 0 and getattr(nic, field) == route.via:
                        return f"{_nic(mac)}/{field}"
            if site is not None and route.destination in site.routes:
                return pointer("site", "routes", route.destination)
        case _:
            pass
    return ""


def _nic(mac: str) -> str:
    return pointer("site", "nics", mac)


def judge_network(plan: Plan, site: Site | None) -> Finding:
    """Links, addresses, routes and kernel settings."""
    lacking = (SetLink, AddAddress, AddRoute, AddPolicyRule, SetSysctl)
    lacks = [step for step in plan.steps if isinstance(step, lacking)]
    more = [s for s in plan.steps if isinstance(s, RemoveAddress | RemoveRoute | RemovePolicyRule)]
    if lacks:
        paths = [place(step, site) for step in lacks]
        said = [" ".join(describe(Plan((step,)))) for step in lacks]
        named = (
            f"{path} ({text})" if path else text for path, text in zip(paths, said, strict=True)
        )
        text = f"the kernel lacks {len(lacks)} of the document's network"
        return failed(text, named, next(filter(None, paths), ""))
    if more:
        return warning("somebody has added to the network", describe(Plan(tuple(more))), "/site")
    return passed("links, addresses, routes and settings are as asked")


def forwards(given: Round) -> Finding:
    desired = given.desired
    steps = forward_steps(given.drift)
    own = desired is not None and any(rule.comment.startswith("/nat/") for rule in desired.rules)
    if desired is None or not (own or steps):
        return skipped("the document translates nothing")
    count = len({rule.comment.removesuffix("/to") for rule in desired.rules if _leads_in(rule)})
    return judge_rules(steps, f"the translations ({count} forwards and static NAT)")


def _leads_in(rule: Rule) -> bool:
    return rule.comment.startswith(("/nat/forwards/", "/nat/static/"))


def firewall(given: Round) -> Finding:
    desired = given.desired
    count = sum(rule.table is not Table.NAT for rule in desired.rules) if desired else 0
    return judge_rules(firewall_steps(given.drift), f"the firewall ({count} rules)")


def network(given: Round) -> Finding:
    return judge_network(given.drift, given.document.site if given.document else None)


CHECKS = (
    Check("forwards", Level.ADVANCED, forwards),
    Check("firewall", Level.ADVANCED, firewall),
    Check("network", Level.ADVANCED, network),
)

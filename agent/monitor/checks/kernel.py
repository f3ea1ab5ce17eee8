"""What the kernel holds against what the revision wants: forwards, firewall, network.

The engine's own difference is what is judged, made of the same canonical text as a push: there is
no second reader that could see it otherwise.
"""

import re
from collections.abc import Iterator, Sequence

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
                missing += [("", f"set {wanted.name}: {one}") for one in sorted(gone)]
                missing += [("", f"set {wanted.name}")] if was is None and not gone else []
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


def judge_network(plan: Plan) -> Finding:
    """Links, addresses, routes and kernel settings."""
    lacks = [
        s
        for s in plan.steps
        if isinstance(s, SetLink | AddAddress | AddRoute | AddPolicyRule | SetSysctl)
    ]
    more = [s for s in plan.steps if isinstance(s, RemoveAddress | RemoveRoute | RemovePolicyRule)]
    if lacks:
        lines = describe(Plan(tuple(lacks)))
        return failed(f"the kernel lacks {len(lacks)} of the document's network", lines, "/site")
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
    return judge_network(given.drift)


CHECKS = (
    Check("forwards", Level.ADVANCED, forwards),
    Check("firewall", Level.ADVANCED, firewall),
    Check("network", Level.ADVANCED, network),
)

"""The child process of the legacy guard: the only place where libiptc is loaded.

    python -m agent.system.legacy_child list|remove FAMILY:TABLE...

`list` prints a JSON list of [family, table, rule]. Time and memory are bounded.
"""

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

_SECONDS = 15
_BYTES = 512 * 1024 * 1024


def main(argv: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    verb, *names = argv
    tables = [(int(family), name) for family, _, name in (n.partition(":") for n in names)]
    if verb == "remove":
        for family, name in tables:
            _remove(_table(family, name))
    else:
        print(json.dumps([[f, n, line] for f, n in tables for line in _lines(_table(f, n))]))
    return 0


def _table(family: int, name: str) -> Any:
    import iptc

    return iptc.Table(name) if family == 4 else iptc.Table6(name)


def _lines(table: Any) -> Iterator[str]:
    for chain in table.chains:
        policy = chain.get_policy() if table.builtin_chain(chain) else None
        if policy is not None and policy.name != "ACCEPT":
            yield f"-P {chain.name} {policy.name}"
        for rule in chain.rules:
            yield " ".join([f"-A {chain.name}", *_words(rule)])


def _words(rule: Any) -> Iterator[str]:
    anywhere = {"0.0.0.0/0.0.0.0", "::/0", "::/::", ""}
    for option, value in (("-s", rule.src), ("-d", rule.dst)):
        if value not in anywhere:
            yield _option(option, value)
    for option, value in (("-i", rule.in_interface), ("-o", rule.out_interface)):
        if value:
            yield _option(option, value)
    if rule.protocol and rule.protocol not in {"ip", "all", "0"}:
        yield _option("-p", rule.protocol)
    for match in rule.matches:
        yield " ".join([f"-m {match.name}", *_parameters(match)])
    if rule.target is not None:
        yield " ".join([f"-j {rule.target.name}", *_parameters(rule.target)])


def _parameters(module: Any) -> Iterator[str]:
    for name, value in module.get_all_parameters().items():
        yield _option(f"--{name}", " ".join(value) if isinstance(value, list) else str(value))


def _option(option: str, value: str) -> str:
    return f"! {option} {value[1:]}" if value.startswith("!") else f"{option} {value}"


def _remove(table: Any) -> None:
    import iptc

    table.flush()
    for chain in table.chains:
        if table.builtin_chain(chain):
            chain.set_policy(iptc.Policy("ACCEPT"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

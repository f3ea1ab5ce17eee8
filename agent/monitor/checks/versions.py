"""Versions: the agent that runs is the one that is installed and, where management says which it
expects, that one."""

from agent.monitor.checks import Check, Finding, Round, Versions, failed, passed, warning
from agent.monitor.health import Level

PATH = "/monitoring/agent_version"


def judge(versions: Versions, expected: str | None) -> Finding:
    if expected is not None and versions.agent != expected:
        return failed(
            f"agent {versions.agent} runs, {expected} is expected", [f"agent {expected}"], PATH
        )
    if versions.agent != versions.installed:
        return warning(
            f"agent {versions.agent} runs, {versions.installed} is installed: restart sysvm-agent"
        )
    return passed(f"agent {versions.agent}, kernel {versions.kernel}, {versions.system}")


def run(given: Round) -> Finding:
    return judge(given.machine.versions(), given.agent_version)


CHECKS = (Check("versions", Level.BASIC, run, bare=True),)

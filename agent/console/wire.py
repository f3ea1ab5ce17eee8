"""Sessions as JSON: from the agent to the proxy, and what became of them back."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from agent.console.sessions import Clipboard, Credentials, Ended, Live, Policy, Session
from agent.console.targets import Target, TargetKind


def session(value: Mapping[str, Any]) -> Session:
    """The session that this is. Raises ValueError, KeyError, TypeError."""
    target, policy = value["target"], value.get("policy", {})
    source = policy.get("source")
    usual = Policy()
    return Session(
        id=value["id"],
        digest=bytes.fromhex(value["secret_sha256"]),
        vm=value["vm"],
        user=value["user"],
        title=value.get("title", ""),
        target=Target(
            kind=TargetKind(target["kind"]),
            address=ipaddress.ip_address(target["address"]),
            port=target["port"],
            path=target.get("path", ""),
            name=target.get("name", ""),
        ),
        credentials=Credentials(**value.get("credentials", {})),
        policy=Policy(
            view_only=policy.get("view_only", usual.view_only),
            clipboard=Clipboard(policy.get("clipboard", usual.clipboard)),
            source=None if source is None else ipaddress.ip_network(source),
            idle=policy.get("idle", usual.idle),
            lifetime=policy.get("lifetime", usual.lifetime),
            resume=policy.get("resume", usual.resume),
            keyboard=policy.get("keyboard", usual.keyboard),
        ),
        valid=value.get("valid", 60.0),
    )


def unsession(one: Session) -> dict[str, Any]:
    """The same, for a worker; it has the credentials in it."""
    target, policy, credentials = one.target, one.policy, one.credentials
    return {
        "id": one.id,
        "secret_sha256": one.digest.hex(),
        "vm": one.vm,
        "user": one.user,
        "title": one.title,
        "target": {
            "kind": target.kind.value,
            "address": str(target.address),
            "port": target.port,
            "path": target.path,
            "name": target.name,
        },
        "credentials": {name: getattr(credentials, name) for name in credentials.__slots__},
        "policy": {
            "view_only": policy.view_only,
            "clipboard": policy.clipboard.value,
            "source": None if policy.source is None else str(policy.source),
            "idle": policy.idle,
            "lifetime": policy.lifetime,
            "resume": policy.resume,
            "keyboard": policy.keyboard,
        },
        "valid": one.valid,
    }


def row(live: Live, now: float) -> dict[str, Any]:
    """A session as a report has it, without anything secret; times are seconds ago."""

    def ago(at: float | None) -> float | None:
        return None if at is None else round(max(0.0, now - at), 1)

    return {
        "id": live.session.id,
        "vm": live.session.vm,
        "user": live.session.user,
        "state": live.state.value,
        "source": None if live.source is None else str(live.source),
        "target": f"{live.session.target.address}:{live.session.target.port}",
        "view_only": live.session.policy.view_only,
        "opened_ago": ago(live.opened),
        "input_ago": ago(live.last_input),
        "to_guest": live.to_guest,
        "from_guest": live.from_guest,
        "connections": live.connections,
        "resume_sha256": live.resume_digest.hex() or None,
    }


def ended_row(ended: Ended, now: float) -> dict[str, Any]:
    """A session that is over, and why."""
    return row(ended.live, now) | {"state": "ended", "why": ended.why.value}

"""How the VM is: status, drift, health, metrics; and the tables of `sysvmctl show`."""

from agent.api import problems as p
from agent.api.answers import Drift, LegacyRules
from agent.api.ports import BalancerRow
from agent.api.routes.route import Parameter, Reply, Route, delete, get, post, rows
from agent.api.show import DhcpRow, DnsRow, InterfaceRow, NatRow, RouteRow, RuleRow, VpnRow
from agent.api.status import Status
from agent.monitor.health import Level, Report, Result

_LEVEL = Parameter(
    "level", {"type": "string", "enum": list(Level)}, "Only the checks of this level."
)
_NAME = Parameter("name", {"type": "string"}, "Only the check of this name.")

ROUTES: tuple[Route, ...] = (
    get("/v1/status", "get_status", "The VM on one screen.", Status, p.UNREADABLE_STATE),
    get(
        "/v1/drift",
        "get_drift",
        "How the machine differs from what was asked for.",
        Drift,
        p.NOTHING_APPLIED,
        p.BUSY,
    ),
    get(
        "/v1/legacy-rules",
        "get_legacy_rules",
        "Rules that somebody made in the legacy tables, which filter beside ours.",
        LegacyRules,
        p.MACHINE_FAILED,
    ),
    delete(
        "/v1/legacy-rules",
        "delete_legacy_rules",
        "Remove those rules.",
        Reply(200, "Those that were removed.", LegacyRules),
        p.MACHINE_FAILED,
    ),
    get(
        "/v1/health",
        "get_health",
        "Every health check's last result, and when they are run.",
        Report,
        p.UNREADABLE_STATE,
    ),
    post(
        "/v1/health/run",
        "run_health",
        "Run health checks now: those of a level, the one of a name, or all.",
        Reply(200, "What they found.", tuple[Result, ...]),
        p.BAD_REQUEST,
        p.NO_SUCH_CHECK,
        p.UNREADABLE_STATE,
        p.BUSY,
        query=(_LEVEL, _NAME),
        only_asks=True,
    ),
    get(
        "/v1/metrics",
        "get_metrics",
        "What the VM knows of itself, as Prometheus reads it.",
        Reply(200, "Metrics.", bytes, "text/plain; version=0.0.4; charset=utf-8"),
        p.UNREADABLE_STATE,
        p.MACHINE_FAILED,
    ),
    get(
        "/v1/vpn",
        "get_vpn",
        "IPsec tunnels: whether they are up, what goes through, and why not.",
        tuple[VpnRow, ...],
        p.NOTHING_APPLIED,
        p.MACHINE_FAILED,
    ),
    rows("interfaces", InterfaceRow, "Network interfaces and their addresses."),
    rows("routes", RouteRow, "Routes, wanted or there.", p.NOTHING_APPLIED),
    rows("rules", RuleRow, "Firewall rules and what they counted.", p.NOTHING_APPLIED),
    rows("nat", NatRow, "Translations of addresses.", p.NOTHING_APPLIED),
    rows("load-balancer", BalancerRow, "Listeners and their servers.", p.MACHINE_FAILED),
    rows("dhcp", DhcpRow, "Hosts and leases.", p.NOTHING_APPLIED, p.MACHINE_FAILED),
    rows("dns", DnsRow, "Names and upstream servers.", p.NOTHING_APPLIED),
)

"""The machine outside the engine's transactions: what the endpoint shows, and restarts."""

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import psutil

from agent.api.ports import (
    Association,
    BalancerRow,
    DhcpLease,
    Facts,
    FailedHandshake,
    LegacyRule,
    MachineFailed,
    NoConsoleProxy,
    TunnelHistory,
    UnitReport,
    Vpn,
)
from agent.engine.host import StepFailed
from agent.engine.model import IPInterface, UnitState
from agent.services import dhcp_dns, load_balancer
from agent.system import consoles, dnsmasq, files, haproxy, legacy, tools, vici
from agent.system.blobs import BlobMissing, BlobRefused, Blobs
from agent.system.paths import Paths
from agent.system.run import CommandFailed, Running, run
from agent.system.units import Units

_JOURNAL_TIMEOUT = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class LinuxMachine:
    """`agent.api.ports.Machine`, as it really is."""

    paths: Paths = field(default_factory=Paths)
    systemd: Units = field(default_factory=Units)
    leases_file: Path = Path(dhcp_dns.LEASES)
    stats_socket: str = load_balancer.STATS_SOCKET
    charon: vici.Charon = field(default_factory=vici.Charon)
    listener: vici.Listener = field(default_factory=vici.Listener)  # its thread is the caller's

    def facts(self) -> Facts:
        process = psutil.Process()
        now = time.time()
        return Facts(
            hostname=socket.gethostname(),
            uptime=max(0.0, now - psutil.Process(1).create_time()),
            agent_uptime=max(0.0, now - process.create_time()),
            agent_memory=process.memory_full_info().uss,
            state_problem=files.note(self.paths.state_problem),
        )

    def units(self, names: Sequence[str]) -> Mapping[str, UnitReport]:
        try:
            states = self.systemd.states(names)
        except StepFailed as error:
            raise MachineFailed(error.step, error.reason) from error
        return {name: _report(states.get(name, UnitState("inactive"))) for name in names}

    def restart(self, unit: str) -> None:
        try:
            self.systemd.restart(unit)
        except StepFailed as error:
            raise MachineFailed(error.step, error.reason) from error

    def log(self, unit: str, lines: int) -> tuple[str, ...]:
        argv = ["journalctl", f"--unit={unit}", f"--lines={lines}", "--output=short-iso"]
        try:
            completed = run([*argv, "--no-pager", "--quiet"], timeout=_JOURNAL_TIMEOUT)
        except CommandFailed as error:
            raise MachineFailed(f"read the journal of {unit}", str(error)) from error
        return tuple(completed.text.splitlines())

    def leases(self) -> tuple[DhcpLease, ...]:
        try:
            rows = dnsmasq.leases(self.leases_file)
        except (OSError, ValueError) as error:
            raise MachineFailed("read the leases", f"{self.leases_file}: {error}") from error
        return tuple(
            DhcpLease(row.mac, str(row.address), row.name, float(row.expires) or None)
            for row in rows
        )

    def balancer(self) -> tuple[BalancerRow, ...]:
        try:
            rows = haproxy.servers(self.stats_socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return ()  # it does not run
        except (OSError, ValueError, KeyError) as error:
            raise MachineFailed("ask haproxy", f"{self.stats_socket}: {error}") from error
        return tuple(
            BalancerRow(
                listener=row.proxy,
                server=row.name,
                status=row.status,
                weight=None if row.name == "FRONTEND" else row.weight,
                sessions=row.sessions,
                total_sessions=row.sessions_total,
                bytes_in=row.bytes_in,
                bytes_out=row.bytes_out,
                check=row.check,
            )
            for row in rows
        )

    def vpn(self) -> Vpn:
        try:
            loaded = frozenset(self.charon.connections())
            associations = self.charon.associations()
        except StepFailed as error:
            raise MachineFailed(error.step, error.reason) from error
        except vici.CharonFailed as error:
            raise MachineFailed("ask charon", str(error)) from error
        now = time.time()
        return Vpn(
            loaded=loaded,
            associations=tuple(
                row for name, ike in associations for row in _associations(name, ike, now)
            ),
            failures={
                name: FailedHandshake(one.at, name, one.reason)
                for name, one in self.listener.failures().items()
            },
            strangers=tuple(
                FailedHandshake(one.at, "", f"{one.reason}: {one.said}")
                for one in self.listener.strangers()
            ),
            histories={
                key: TunnelHistory(one.up_since, one.rekeyed)
                for key, one in self.listener.tunnels().items()
            },
        )

    def legacy_rules(self) -> tuple[LegacyRule, ...]:
        try:
            rules = legacy.observe()
        except CommandFailed as error:
            raise MachineFailed("read the legacy tables", str(error)) from error
        return tuple(LegacyRule(int(rule.family), rule.table, rule.text) for rule in rules)

    def remove_legacy_rules(self) -> tuple[LegacyRule, ...]:
        found = self.legacy_rules()
        try:
            legacy.remove()
        except CommandFailed as error:
            raise MachineFailed("remove the legacy rules", str(error)) from error
        return found

    def nics(self) -> Mapping[str, tuple[IPInterface, ...]]:
        return {
            name: tuple(_interfaces(addresses))
            for name, addresses in psutil.net_if_addrs().items()
            if name != "lo"
        }

    def start(self, argv: tuple[str, ...], seconds: float, longest: int) -> tools.Tool:
        return tools.begin(argv, seconds, longest)

    def inspect(self, argv: tuple[str, ...], seconds: float, longest: int) -> Running:
        try:
            return Running(argv, timeout=seconds, longest=longest)
        except CommandFailed as error:
            raise MachineFailed(argv[0], error.reason) from error

    def secrets(self) -> Iterator[str]:
        from agent.diagnostics.scrub import private_keys_of  # with what it needs, for bundles alone

        for folder in (self.paths.run, self.paths.state):
            with contextlib.suppress(OSError, ValueError):
                yield from private_keys_of(json.loads((folder / "boot.json").read_bytes()))

    def console(self, message: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            return consoles.ask(message)
        except FileNotFoundError as error:
            raise NoConsoleProxy("ask the console proxy", "none runs here") from error
        except (OSError, ValueError) as error:
            raise MachineFailed("ask the console proxy", str(error)) from error

    def console_reports(self) -> Iterator[Mapping[str, Any] | None]:
        try:
            yield from consoles.watch()
        except (OSError, ValueError) as error:
            raise MachineFailed("watch the console proxy", str(error)) from error

    def put_blob(self, sha256: str, content: bytes) -> bool:
        try:
            return Blobs(self.paths).put(sha256, io.BytesIO(content), size=len(content))
        except (BlobRefused, StepFailed) as error:
            raise MachineFailed("store the blob", str(error)) from error

    def blob(self, sha256: str) -> bytes | None:
        try:
            return Blobs(self.paths).path(sha256).read_bytes()
        except (BlobMissing, FileNotFoundError):
            return None
        except OSError as error:
            raise MachineFailed("read the blob", os.strerror(error.errno or 0)) from error


def _associations(name: str, ike: vici.Message, now: float) -> Iterator[Association]:
    """The tunnels of an IKE SA; the exchange itself where it has none."""
    exchange = Association(
        connection=name,
        child="",
        state=ike["state"],
        peer=ike["remote-host"],
        local_identity=ike.get("local-id", ""),
        remote_identity=ike.get("remote-id", ""),
        ike=" ".join([f"IKEv{ike['version']}", _algorithms(ike)]).strip(),
    )
    children = ike.get("child-sas", {}).values()
    if not children:
        yield exchange
    for child in children:
        yield replace(
            exchange,
            child=child["name"],
            state=child["state"],
            esp=_algorithms(child) + (" in UDP" if child.get("encap") == "yes" else ""),
            installed=now - int(child.get("install-time", 0)),
            bytes_in=int(child.get("bytes-in", 0)),
            packets_in=int(child.get("packets-in", 0)),
            bytes_out=int(child.get("bytes-out", 0)),
            packets_out=int(child.get("packets-out", 0)),
        )


def _interfaces(addresses: Iterable[Any]) -> Iterator[IPInterface]:
    """psutil's addresses as ours; those of the link layer are none."""
    for one in addresses:
        if one.family not in {socket.AF_INET, socket.AF_INET6} or one.netmask is None:
            continue
        length = int(ip_address(one.netmask)).bit_count()
        yield ip_interface(f"{one.address.partition('%')[0]}/{length}")


def _algorithms(association: vici.Message) -> str:
    """In strongSwan's own words, such as AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384."""
    cipher = [association.get("encr-alg"), association.get("encr-keysize")]
    words = ["_".join(word for word in cipher if word)]
    words += [association.get(f"{kind}", "") for kind in ("integ-alg", "prf-alg", "dh-group")]
    return "/".join(word for word in words if word)


def _report(state: UnitState) -> UnitReport:
    """The unit with what the kernel knows of its main process, if it is still there."""
    if not state.main_pid:
        return UnitReport(state.active, state.sub)
    try:
        process = psutil.Process(state.main_pid)
        uptime = max(0.0, time.time() - process.create_time())
        memory = process.memory_info().rss
    except psutil.Error:
        return UnitReport(state.active, state.sub, state.main_pid)
    return UnitReport(state.active, state.sub, state.main_pid, round(uptime, 1), memory)

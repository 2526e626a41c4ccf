"""What keeps this node from others, with the next step: `atmo mesh doctor`.

`gather` finds the facts out, `examine` judges them: verdicts depend on nothing else.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from atmo.identity import NodeId
from atmo.net.driver import PeerDriver
from atmo.reach.config import DIRECT, FORWARD, LAN, RELAY
from atmo.reach.nat import NatReport
from atmo.reach.prediction import ENDPOINT, NONE, UNKNOWN
from atmo.services.clock import ClockService, offset_s
from atmo.services.host import MeshHost
from atmo.trust.mesh import SKEW_S
from atmo.wire.address import Address

STUN_S = 4.0
"""For an answer. Source: four of the requests of `StunConfig` go out in this time, and a person waits."""

TCP_MOST, TCP_S = 4, 2.0
"""Members whose TCP port is tried, and for how long. Source: guess; a person waits."""

GOOD, POOR, BAD, UNKNOWN_VERDICT = "good", "poor", "bad", "unknown"

CLOCK_POOR_S = 2.0
"""Source: guess; times of records and of logs are compared by people."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        verdict: `good`, `poor` (works, not well), `bad`, or `unknown`.
        found: What was found.
        next: What to do, empty where nothing is.
    """

    name: str
    verdict: str
    found: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out.

    Attributes:
        mesh: There is one.
        listen: Where the node listens.
        paths: Kinds of the paths to linked members.
        stun: Each server that was asked, and whether it answered.
        mapping, filtering, public: Of the NAT.
        mapped, mapped_by: Where the router lets others in, as others are told, and how it was asked; empty for nowhere.
        unmapped: Why it does not.
        relays: The settings name some.
        relay: The home relay, None for none.
        relay_reason: Why there is none.
        offsets: Clocks of others, ahead of this one's, in seconds.
        lan: Why mDNS does not work, empty where it does, None where it is switched off.
        near: Nodes that mDNS shows, without this one.
        tcp: Port on which bulk connections are taken, None where none are.
        tcp_tried, tcp_reached: Linked members whose TCP port was tried, and where it answered.
    """

    mesh: bool = False
    listen: Sequence[str] = ()
    paths: Sequence[str] = ()
    stun: Mapping[str, bool] | None = None
    mapping: str = UNKNOWN
    filtering: str = UNKNOWN
    public: Sequence[str] = ()
    mapped: str = ""
    mapped_by: str = ""
    unmapped: str = ""
    relays: bool = False
    relay: str | None = None
    relay_reason: str = ""
    offsets: Sequence[float] = ()
    lan: str | None = None
    near: int = 0
    tcp: int | None = None
    tcp_tried: int = 0
    tcp_reached: int = 0


def examine(facts: Facts) -> list[Check]:
    """Judges the facts, in the order in which a person should read them."""
    return [
        _links(facts),
        _udp(facts),
        _stun(facts),
        _nat(facts),
        _relay(facts),
        _tcp(facts),
        _lan(facts),
        _clock(facts),
    ]


def _links(facts: Facts) -> Check:
    name = "mesh"
    if not facts.mesh:
        step = "Look for one with `atmo mesh discover`, join with `atmo mesh join CODE`, or `atmo mesh create NAME`."
        return Check(name, UNKNOWN_VERDICT, "this machine is in no mesh", step)
    if not facts.paths:
        step = "Check that another member runs `atmo node`, then the lines below."
        return Check(name, BAD, "no other member is connected", step)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(facts.paths).items()))
    if all(kind in (RELAY, FORWARD) for kind in facts.paths):
        return Check(name, POOR, f"connected, and to nobody directly: {counts}", "`atmo mesh nodes` says why.")
    return Check(name, GOOD, f"connected: {counts}")


def _udp(facts: Facts) -> Check:
    name = "UDP"
    direct = sum(kind not in (RELAY, FORWARD) for kind in facts.paths)
    if direct or (facts.stun and any(facts.stun.values())):
        return Check(name, GOOD, "goes out and comes back")
    if facts.stun:
        step = "Let UDP out in this machine's and the network's firewall; until then everything goes by relay."
        return Check(name, BAD, "nothing comes back", step)
    if facts.paths:
        step = "Let UDP out in the firewalls; `atmo node --stun HOST:PORT` tells whether it is blocked here."
        return Check(name, POOR, "no connection goes over it: it may be blocked here, or at the others", step)
    return Check(name, UNKNOWN_VERDICT, "there is nobody to try it with", "Name a server with `atmo node --stun`.")


def _stun(facts: Facts) -> Check:
    name, asked = "STUN", facts.stun or {}
    silent = sorted(server for server, answered in asked.items() if not answered)
    if not asked:
        step = "Name one with `atmo node --stun HOST:PORT`; members with a public address serve as one, too."
        return Check(name, UNKNOWN_VERDICT, "no server is known", step)
    if len(silent) == len(asked):
        return Check(name, BAD, f"no answer from {', '.join(silent)}", "Check the names, and that UDP is let out.")
    if silent:
        return Check(name, POOR, f"{len(asked) - len(silent)} of {len(asked)} answer, not {', '.join(silent)}")
    return Check(name, GOOD, f"{len(asked)} of {len(asked)} answer")


def _nat(facts: Facts) -> Check:
    seen = f", seen at {', '.join(facts.public)}" if facts.public else ""
    if facts.mapped and facts.mapping != NONE:
        return Check("NAT", GOOD, f"no obstacle: the router lets others in at {facts.mapped} ({facts.mapped_by})")
    closed = f"; the router maps no port ({facts.unmapped})" if facts.unmapped else ""
    match facts.mapping:
        case "none":
            return Check("NAT", GOOD, f"none: others reach this machine where it listens{seen}")
        case "endpoint":
            return Check("NAT", GOOD, f"one port for all destinations{seen}: direct paths can be punched")
        case "address" | "port":
            step = "Forward the UDP port in the router, or switch PCP, NAT-PMP or UPnP on there; else name a relay."
            words = f"another port for each destination{seen}: to others like it only by relay{closed}"
            return Check("NAT", POOR, words, step)
    return Check("NAT", UNKNOWN_VERDICT, f"its kind takes two STUN servers to find out{seen}{closed}")


def _relay(facts: Facts) -> Check:
    name = "relay"
    if facts.relay:
        return Check(name, GOOD, f"found at {facts.relay}")
    if facts.relays:
        return Check(
            name, BAD, f"none: {facts.relay_reason}", "Check the URL, and that it runs: `curl http://HOST:PORT/health`."
        )
    reachable = facts.mapping == NONE or bool(facts.mapped) or any(_is_public(address) for address in facts.listen)
    if reachable:
        return Check(name, GOOD, "none, and none is needed: others reach this machine")
    step = "Run `atmo relay` on a machine that all can reach, and start nodes with `--relay URL`."
    verdict = POOR if facts.mapping != ENDPOINT else GOOD
    return Check(name, verdict, "none: others behind NATs may not reach this machine", step)


def _tcp(facts: Facts) -> Check:
    name = "TCP"
    if facts.tcp is None:
        return Check(name, POOR, "models are not sent by TCP: the port is taken", "Free it, or listen elsewhere.")
    if facts.tcp_tried and not facts.tcp_reached:
        step = "Let TCP through on the same port number as UDP; until then models travel several times slower."
        return Check(name, POOR, f"port {facts.tcp} is open here, no member's port answers", step)
    if facts.tcp_tried:
        return Check(name, GOOD, f"answered on the ports of {facts.tcp_reached} of {facts.tcp_tried} members")
    return Check(name, UNKNOWN_VERDICT, f"port {facts.tcp} is open here; there is no member to try")


def _lan(facts: Facts) -> Check:
    name = "mDNS"
    if facts.lan is None:
        return Check(name, UNKNOWN_VERDICT, "switched off")
    if facts.lan:
        return Check(name, BAD, facts.lan, "Let UDP port 5353 through on this machine; until then join by code.")
    if not facts.near:
        return Check(
            name, UNKNOWN_VERDICT, "nobody else is heard of on this LAN", "`atmo mesh discover` says what to check."
        )
    return Check(name, GOOD, f"works; other nodes near: {facts.near}")


def _clock(facts: Facts) -> Check:
    name, off = "clock", offset_s(facts.offsets)
    if off is None:
        return Check(name, UNKNOWN_VERDICT, "there is nobody to compare it with")
    words = f"{abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} other members ({len(facts.offsets)} asked)"
    if abs(off) > SKEW_S:
        return Check(name, BAD, words, "Set the clock (NTP): certificates and records are taken for invalid.")
    if abs(off) > CLOCK_POOR_S:
        return Check(name, POOR, words, "Switch NTP on, before it is more than a minute.")
    return Check(name, GOOD, f"within {max(abs(off), 0.1):.1f} s of other members ({len(facts.offsets)} asked)")


def _is_public(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    return ipaddress.ip_address(host).is_global


class Doctor:
    """Finds the facts out.

    Args:
        host: Where the node's sockets and its peer are.
        clock: Asks others for the time.
        lan: Returns why mDNS does not work, empty where it does, None where it is switched off; and how many are near.
    """

    def __init__(self, host: MeshHost, clock: ClockService, lan: Callable[[], tuple[str | None, int]]) -> None:
        self._host = host
        self._clock = clock
        self._lan = lan

    async def checks(self) -> dict[str, Any]:
        """Returns `{checks: [{name, verdict, found, next}]}`; takes a few seconds where something does not answer."""
        if self._host.alone is not None:
            return {"checks": [asdict(Check("mode", UNKNOWN_VERDICT, *self._host.alone))]}
        return {"checks": [asdict(check) for check in examine(await self.gather())]}

    async def gather(self) -> Facts:
        """Asks servers and members, all at once."""
        host, found = self._host, _Found()
        driver = host.port if isinstance(host.port, PeerDriver) else None
        links = driver.links.ready() if driver else []
        nodes = [link.connection.node_id for link in links]
        direct = [link.connection.remote for link in links if link.connection.path in (LAN, DIRECT)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.ask_stun, host)
            nursery.start_soon(found.ask_time, self._clock, nodes)
            for address in direct[:TCP_MOST]:
                nursery.start_soon(found.try_tcp, address)
        report = host.nat.report if host.nat else NatReport()
        relay, router = host.relay_state, host.port_mapping()
        told = router["announced"]
        lan, near = self._lan()
        return Facts(
            mesh=driver is not None,
            listen=[str(address) for address in host.addresses()],
            paths=[link.connection.path for link in links],
            stun=found.stun,
            mapping=report.mapping,
            filtering=report.filtering,
            public=[str(address) for address in report.public],
            mapped=told[0] if told else "",
            mapped_by=router["how"] or "",
            unmapped=router["reason"],
            relays=relay is not None,
            relay=relay.home.url if relay and relay.home else None,
            relay_reason=relay.reason if relay else "",
            offsets=found.offsets,
            lan=lan,
            near=near,
            tcp=host.tcp_port,
            tcp_tried=min(len(direct), TCP_MOST),
            tcp_reached=found.reached,
        )


@dataclass(slots=True)
class _Found:
    stun: dict[str, bool] = field(default_factory=dict)
    offsets: list[float] = field(default_factory=list)
    reached: int = 0

    async def ask_stun(self, host: MeshHost) -> None:
        if host.nat is not None:
            self.stun = {str(server): answered for server, answered in (await host.nat.ask_all(STUN_S)).items()}

    async def ask_time(self, clock: ClockService, nodes: Sequence[NodeId]) -> None:
        self.offsets = await clock.offsets(nodes)

    async def try_tcp(self, address: Address) -> None:
        with trio.move_on_after(TCP_S):
            try:
                stream = await trio.open_tcp_stream(address.host, address.port)
            except OSError:
                return
            self.reached += 1
            await stream.aclose()

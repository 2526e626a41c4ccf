"""Keeps knowing the NAT before this node: asks STUN servers now and then, and answers others as one.

Servers are those of the settings, and a few members of the mesh that say they listen at an address of the internet:
every node answers binding requests on its socket. A server with a second address also shows whom the NAT lets in
(RFC 5780); only those of the settings are used for that, as it sends datagrams to an address that the server names.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.net.quic import Endpoint
from atmo.net.stun import StunClient, StunConfig, StunServer, StunStats
from atmo.net.stun_message import CHANGE_ADDRESS, CHANGE_PORT, is_request
from atmo.net.udp import to_address
from atmo.reach.nat import SERVERS_MOST, Nat, NatConfig, NatReport, alike
from atmo.reach.prediction import ADDRESS, ENDPOINT, PORT, UNKNOWN
from atmo.wire.address import Address, host_group

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NatWatchConfig:
    """Periods and bounds.

    Attributes:
        members: How many members of the mesh are asked, each of another host. Source: the least by which one liar is
            outvoted.
        tested: Servers of the settings that are used for tests of filtering and ports in one measurement.
        lookup_s: For the look-up of a server's name.
        quiet_s: A filtering test needs that so long nothing was sent to where its answer comes from. Source: NATs keep
            what is not used for two to five minutes (RFC 4787 section 4.3), and margin.
        pause_s: After a filtering test whose answer was not let in nothing is sent to there for so long: Linux takes
            that answer for a connection, for 30 s, and maps what goes there to another port. Source: measured.
    """

    members: int = 3
    tested: int = 2
    lookup_s: float = 5.0
    quiet_s: float = 330.0
    pause_s: float = 60.0


class NatWatch:
    """The STUN client and server of an endpoint, and what the client finds out.

    Args:
        endpoint: Whose socket it is about.
        own: Returns where the socket can be reached by this machine's interfaces.
        servers: Host names or addresses, and ports.
        members: Returns where members of the mesh listen, or say they do.
        config: Periods and bounds.
        stun: Those of the client and the server.
        nat: Those of what is known.

    Attributes:
        stats: Counters.
        asked: Who was asked in the newest measurement that is over, and whether it answered.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        own: Callable[[], Iterable[Address]],
        servers: Sequence[tuple[str, int]] = (),
        members: Callable[[], Iterable[Address]] = tuple,
        config: NatWatchConfig = NatWatchConfig(),
        stun: StunConfig = StunConfig(),
        nat: NatConfig = NatConfig(),
    ) -> None:
        if len(servers) > SERVERS_MOST:
            raise ValueError(f"{len(servers)} STUN servers are more than {SERVERS_MOST}")
        self.stats = StunStats()
        self.asked: Mapping[str, bool] = {}
        self._endpoint = endpoint
        self._own = own
        self._names = servers
        self._members = members
        self._config = config
        self._client = StunClient(endpoint.send_other, stun, self.stats)
        self._server = StunServer(endpoint.send_other, stun, self.stats)
        self._nat = Nat(nat, own())
        self._wake = trio.Event()
        self._testing = False
        self._turn = trio.Lock()
        self._sent_to: dict[Address, float] = {}  # since `quiet_s`
        self._helpers: dict[Address, Address] = {}  # servers of the settings, and the other address of each

    @property
    def report(self) -> NatReport:
        """What is known now."""
        return self._nat.report(_now())

    def view(self) -> dict[str, object]:
        """Returns what is known now, for people and for JSON."""
        report = self.report
        age_s = None if report.measured_at is None else round(trio.current_time() - report.measured_at, 1)
        public = [str(address) for address in report.public]
        return {"mapping": report.mapping, "filtering": report.filtering, "public": public, "age_s": age_s}

    def hurry(self) -> None:
        """There may be servers that were not there before, such as a mesh."""
        self._nat.hurry(_now())
        self._wake.set()

    def look_again(self) -> None:
        """This machine's addresses may have changed; where they have, all is measured anew."""
        self._wake.set()

    async def run(self) -> None:
        """Serves, and measures whenever it is time to, until cancelled."""
        self._endpoint.on_other = self._take_untrusted
        try:
            while True:
                with trio.move_on_at(self._nat.next_timer()):
                    await self._wake.wait()
                self._wake = trio.Event()
                if self._nat.network_changed(_now(), self._own()):
                    self._endpoint.probing.forget_seen()  # of the old network; probes bring the new ones
                if self._nat.next_timer() <= trio.current_time():
                    await self._measure()
        finally:
            self._endpoint.on_other = None

    def _take_untrusted(self, data: bytes, source: Address) -> None:
        if is_request(data):
            self._server.take_untrusted(data, source, trio.current_time())
        else:
            self._client.take_untrusted(data, source)

    # A measurement

    async def _measure(self) -> None:
        """Tests the filtering, as far as what was sent before is forgotten by then, then the mapping."""
        self._nat.begin()
        before = self.report
        since = trio.current_time() - self._config.quiet_s
        self._sent_to = {address: at for address, at in self._sent_to.items() if at >= since}
        self._testing = True
        results = {await self._test_filtering(server, other) for server, other in self._helpers.items()}
        if results & {ADDRESS, PORT}:
            await trio.sleep(self._config.pause_s)
        self._testing = False
        await self.ask_all()
        for server, other in self._helpers.items():
            for address in (Address(other.host, server.port), other):
                self._sent_to[address] = trio.current_time()
                await self._ask(address, {})
        self._nat.end(_now())
        after = self.report
        if self._helpers and after.filtering == UNKNOWN:
            self._nat.hurry(_now(), self._config.quiet_s + 1.0)
        self._tell(before, after)

    async def ask_all(self, within_s: float = math.inf) -> Mapping[str, bool]:
        """Asks the servers where they see the socket, and returns `asked`; nothing is sent while filtering is tested.

        Only while `run` does.

        Args:
            within_s: Who takes longer to answer has not answered.
        """
        with trio.move_on_after(2 * within_s):
            async with self._turn:
                if not self._testing:
                    await self._ask_servers(within_s)
        return self.asked

    async def _ask_servers(self, within_s: float = math.inf) -> None:
        known = await self._resolve()
        labels = {**{address: str(address) for address in self._some_members(known)}, **known}
        answered: dict[Address, bool] = {}
        helpers: dict[Address, Address] = {}

        async def ask(server: Address) -> None:
            answered[server] = await self._ask(server, helpers if server in known else {})

        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + within_s
            for server in labels:
                self._sent_to[server] = trio.current_time()
                nursery.start_soon(ask, server)
        asked = dict.fromkeys([*(_label(*name) for name in self._names), *labels.values()], False)
        self.asked = asked | {labels[server]: True for server, yes in answered.items() if yes}
        self._helpers = dict(list(helpers.items())[: self._config.tested])

    async def _ask(self, server: Address, helpers: dict[Address, Address]) -> bool:
        """Asks one server where it sees the socket; one with another address that may be used joins the helpers.

        Returns whether it answered.
        """
        try:
            answer = await self._client.ask(server)
        except RemoteError as error:
            log.debug("STUN: %s", error)
            return False
        if answer is None or answer.mapped is None:
            log.debug("STUN: no answer from %s", server)
            return False
        if not self._nat.saw(_now(), server, answer.mapped):
            self.stats.implausible += 1
        other = answer.other
        if other and alike(server, other) and other.host != server.host and other.port != server.port:
            helpers[server] = other
        return True

    async def _test_filtering(self, server: Address, other: Address) -> str:
        """Has a server answer from elsewhere, and returns whom the NAT lets in, if that can be found out now."""
        if not self._is_quiet(server, other):
            return UNKNOWN
        self._sent_to[server] = trio.current_time()
        found = PORT
        try:
            if await self._client.ask(server, CHANGE_ADDRESS | CHANGE_PORT, other):
                found = ENDPOINT
            elif await self._client.ask(server, CHANGE_PORT, Address(server.host, other.port)):
                found = ADDRESS
            elif not await self._client.ask(server):
                return UNKNOWN  # it is not there
        except RemoteError as error:
            log.debug("STUN: no filtering tests: %s", error)
            return UNKNOWN
        self._nat.filters(_now(), server, found)
        return found

    def _is_quiet(self, server: Address, other: Address) -> bool:
        """Says whether no NAT can still let in the answers of the tests because something was sent there."""
        since = trio.current_time() - self._config.quiet_s
        return not any(
            at >= since and (address.host == other.host or (address.host == server.host and address != server))
            for address, at in self._sent_to.items()
        )

    def _tell(self, before: NatReport, after: NatReport) -> None:
        """Has others know where this node was seen."""
        probing, own = self._endpoint.probing, set(self._own())
        for address in after.public:
            if address not in own:
                probing.saw(address)
        if (before.mapping, before.filtering, before.public) != (after.mapping, after.filtering, after.public):
            public = ", ".join(map(str, after.public)) or "nowhere"
            log.info("NAT: mapping %s, filtering %s, seen at %s", after.mapping, after.filtering, public)

    # Whom to ask

    async def _resolve(self) -> dict[Address, str]:
        """Returns the addresses of the servers of the settings, one for each IP version that the socket has, and which
        server each one is of.
        """
        found: dict[Address, str] = {}

        async def look_up(host: str, port: int) -> None:
            try:
                answer = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            except (OSError, UnicodeError) as error:
                log.debug("STUN: %s: %s", host, error)
                return
            by_family = {family: to_address(address) for family, _, _, _, address in reversed(answer)}
            found.update((each, _label(host, port)) for each in by_family.values() if self._can_reach(each))

        with trio.move_on_after(self._config.lookup_s):
            async with trio.open_nursery() as nursery:
                for name in self._names:
                    nursery.start_soon(look_up, *name)
        return found

    def _some_members(self, known: Iterable[Address]) -> list[Address]:
        """Returns addresses of members, by chance, one for each host, none of this machine or of a known server."""
        avoid = {host_group(address.host) for address in [*known, *self._own()]}
        found: dict[str, Address] = {}
        for address in self._members():
            if self._can_reach(address) and ipaddress.ip_address(address.host).is_global:
                found.setdefault(host_group(address.host), address)
        hosts = sorted(found.keys() - avoid)
        chosen = secrets.SystemRandom().sample(hosts, min(self._config.members, len(hosts)))
        return [found[host] for host in chosen]

    def _can_reach(self, address: Address) -> bool:
        return ":" not in address.host or ":" in self._endpoint.local_address.host


def _label(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _now() -> Now:
    return Now(trio.current_time(), 0.0)  # nothing here depends on the wall clock

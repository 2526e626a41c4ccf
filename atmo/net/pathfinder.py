"""Both ends of a link tell each other how to find better paths: `atmo/paths/1`.

Whoever dialled asks once the link is ready. Header and answer have one form: the key under which an end takes probes,
and the addresses at which it may be reached, those included at which others saw it. Both ends probe at once. Where
that opens no direct path, both send at the same moment ("punch"): whoever asked waits for half a round trip after the
second request, so that what each sends leaves before what the other sent arrives, and opens its NAT for it. Where that
does not help, as one end's NAT gives every destination another port, ports are guessed (`net.spraying`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol
from weakref import WeakKeyDictionary

import trio

from atmo.errors import RemoteError, WireError
from atmo.net.connection import Connection
from atmo.net.path_report import PathReport, report_path
from atmo.net.ports import RequestStream
from atmo.net.quic import Endpoint
from atmo.net.relayed import RelayPaths
from atmo.net.requests import open_request
from atmo.net.spraying import INDIRECT, Spraying
from atmo.reach.prediction import MAPPINGS, PORT, SCAN, UNKNOWN, WIDEN, role
from atmo.reach.probe import KEY_BYTES, SESSION_BYTES, Key
from atmo.wire import codec
from atmo.wire.address import Address
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

log = logging.getLogger(__name__)

PATHS: Final = "atmo/paths/1"

ADDRESSES_MOST: Final = 8
SEEN_MOST: Final = 4
_ASK_S = 10.0
GUESS_S: Final = 0.1
"""Until ports are guessed where both ends know that it takes that: what plain probes open is open by then. Source:
guess, the round trip of a continent."""
PUNCH_S: Final = (0.5, 3.0, 10.0, 30.0, 120.0)
"""After so many seconds on an indirect path both ends punch, and then again each time after the last of them. Source:
guess."""


@dataclass(frozen=True, slots=True)
class PathOffer:
    """The header of `atmo/paths/1`, and the one frame of its answer.

    Attributes:
        session: 8 bytes; probes to the sender carry them.
        secret: 32 bytes; the key of those probes.
        addresses: Where the sender listens.
        seen: From where others saw it, if that is somewhere else: what a NAT made of it.
        punch: Both send now.
        relay: URL of the relay at which the sender is found.
        mapping: How the sender's NAT gives ports (`atmo.reach.prediction`).
        spray: What the sender does beside punching, `widen` or `scan`; the receiver does the other.
    """

    session: Annotated[bytes, Most(SESSION_BYTES)]
    secret: Annotated[bytes, Most(KEY_BYTES)]
    addresses: Annotated[tuple[Address, ...], Most(ADDRESSES_MOST)]
    punch: bool = False
    relay: Annotated[str, Most(512)] | None = None
    seen: Annotated[tuple[Address, ...], Most(SEEN_MOST)] = ()
    mapping: Annotated[str, Most(16)] = UNKNOWN
    spray: Annotated[str, Most(16)] = ""


class Lives(Protocol):
    """What this needs of a link."""

    @property
    def connection(self) -> Connection:
        """What it runs over."""

    @property
    def ending(self) -> bool:
        """True from the moment it is being closed."""

    @property
    def needed(self) -> bool:
        """Somebody uses it, or is about to."""


class Pathfinder:
    """Has the connections of links find their paths.

    Args:
        endpoint: Whose connections they are.
        addresses: Returns where this node listens.

    Attributes:
        relayed: The paths over relays, where the node has them.
        mapping: Returns how this node's NAT gives ports, as far as servers told.
        nursery: Where guessing of ports goes on.
        tried, opened: Links that needed punching, and those that it gave a direct path, by the mappings of both ends,
            such as `endpoint-port`: those that this end dialled.
    """

    def __init__(self, endpoint: Endpoint, addresses: Callable[[], tuple[Address, ...]]) -> None:
        self.relayed: RelayPaths | None = None
        self.mapping: Callable[[], str] = lambda: UNKNOWN
        self.nursery: trio.Nursery | None = None
        self.tried: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.spraying = Spraying(endpoint)
        self._probing = endpoint.probing
        self._addresses = addresses
        self._offers: WeakKeyDictionary[Connection, PathOffer] = WeakKeyDictionary()
        self._nudges: WeakKeyDictionary[Connection, trio.Event] = WeakKeyDictionary()

    # --- the end that dialled -------------------------------------------------------------------------------------

    async def keep(self, link: Lives) -> None:
        """Asks the other end of a link that this one dialled, then punches for as long as the path is indirect."""
        connection = link.connection
        number, kinds = 0, ""
        while not link.ending:
            try:
                indirect = connection.path in INDIRECT or connection.steering is None
                if link.needed and (number == 0 or indirect):
                    theirs = await self._ask(connection, number)
                    kinds = kinds or f"{self._mapping()}-{theirs.mapping}"
            except WireError as error:
                log.debug("no paths to %s, it answered %s with %s", connection.node_id.short, PATHS, error)
                return
            except RemoteError as error:
                log.debug("no paths to %s for now: %s", connection.node_id.short, error)
            nudged = await self._wait(connection, self._pause_s(connection, number))
            number = 1 if nudged else self._count(connection, number, kinds)

    def _pause_s(self, connection: Connection, number: int) -> float:
        """Returns how long to wait for the next punch; ports that have to be guessed, as is known, are guessed soon."""
        theirs = self._offers.get(connection)
        if number == 0 and theirs is not None and self._role(theirs, 1):
            return GUESS_S
        return PUNCH_S[min(number, len(PUNCH_S) - 1)]

    async def _wait(self, connection: Connection, seconds: float) -> bool:
        """Waits for so long, for the end of the connection, or until it has to take an indirect path, which it says."""
        nudge = self._nudges[connection] = trio.Event()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for event in (connection.closed, nudge):
                    nursery.start_soon(_then_cancel, event, nursery.cancel_scope)
        return nudge.is_set()

    def moved(self, connection: Connection) -> None:
        """A connection takes another path: from a direct to an indirect one it tries to come back at once."""
        nudge = self._nudges.get(connection)
        if nudge is not None and connection.path in INDIRECT:
            nudge.set()

    def _count(self, connection: Connection, number: int, kinds: str) -> int:
        """Returns how many punches come before the next one on a path that is indirect, and counts."""
        if connection.path in INDIRECT or connection.steering is None:
            self.tried[kinds] += number == 1
            return number + 1
        self.opened[kinds] += number > 1
        return 1

    async def _ask(self, connection: Connection, number: int) -> PathOffer:
        """Asks, and punches unless it is the first time.

        Args:
            connection: To whom.
            number: How often it was tried before.

        Raises:
            RemoteError: No answer.
            WireError: The answer is none that an honest node gives.
        """
        before = self._offers.get(connection)
        spray = self._role(before, number) if before and number else ""
        header: dict[str, Any] = to_wire(self._offer(connection, punch=number > 0, spray=spray))
        async with open_request(connection, PATHS, header, _ASK_S) as stream:
            await stream.finish()
            body = await stream.receive()
        if body is None:
            raise WireError("nothing")
        theirs = self._take_untrusted(connection, codec.decode_untrusted(body))
        if number and connection.steering is not None:
            await trio.sleep((connection.rtt_s or 0.0) / 2)
            self._punch(connection, spray, theirs)
        return theirs

    def _role(self, theirs: PathOffer, number: int) -> str:
        mine = self._mapping()
        if number == 1 and UNKNOWN in (mine, theirs.mapping):
            return ""  # plain punching first, which may do
        return role(mine, theirs.mapping, number)

    # --- the other end --------------------------------------------------------------------------------------------

    async def serve(self, connection: Connection, stream: RequestStream) -> None:
        """Answers `atmo/paths/1` on a link.

        Raises:
            WireError: The header is not one that an honest node sends.
        """
        offer = self._take_untrusted(connection, stream.header)
        await stream.send(codec.encode(to_wire(self._offer(connection, punch=offer.punch))))
        if offer.punch and connection.steering is not None:
            await trio.sleep(connection.rtt_s or 0.0)
            self._punch(connection, {WIDEN: SCAN, SCAN: WIDEN}.get(offer.spray, ""), offer)

    async def tell(self, connection: Connection) -> None:
        """Tells the other end of a link of a change at this one: of its addresses, or of how others see it."""
        try:
            await self._ask(connection, 0)
        except (RemoteError, WireError) as error:
            log.debug("%s does not learn of new paths: %s", connection.node_id.short, error)

    def report(self, connection: Connection) -> PathReport:
        """Returns which path a connection takes, since when, and why no better one."""
        return report_path(connection, self._mapping(), self._offers.get(connection))

    def punches(self) -> dict[str, dict[str, int]]:
        """Returns how often links needed punching, and it helped, by the kinds of both ends' NATs."""
        return {kinds: {"tried": count, "opened": self.opened[kinds]} for kinds, count in self.tried.items() if count}

    # --- both -----------------------------------------------------------------------------------------------------

    def _punch(self, connection: Connection, spray: str, theirs: PathOffer) -> None:
        if connection.steering is None or connection.closed.is_set():
            return
        connection.steering.punch(trio.current_time())
        connection.touch()
        if self.nursery is None or connection.path not in INDIRECT:
            return
        if spray == WIDEN:
            self.nursery.start_soon(self.spraying.widen, connection, theirs.seen)
        elif spray == SCAN:
            self.nursery.start_soon(self.spraying.scan, connection, theirs.seen)

    def _mapping(self) -> str:
        """How this node's NAT gives ports: as servers told, else as far as what others saw tells."""
        told = self.mapping()
        if told != UNKNOWN:
            return told
        hosts = Counter(address.host for address in self._probing.seen)
        return PORT if any(count > 1 for count in hosts.values()) else UNKNOWN

    def _offer(self, connection: Connection, *, punch: bool, spray: str = "") -> PathOffer:
        key = self._probing.offer(connection)
        addresses = self._addresses()[:ADDRESSES_MOST]
        seen = [address for address in self._seen() if address not in addresses]
        relay = self.relayed.home() if self.relayed else None
        return PathOffer(
            key.session, key.secret, addresses, punch, relay, tuple(seen[:SEEN_MOST]), self._mapping(), spray
        )

    def _seen(self) -> list[Address]:
        """Returns from where others saw this node: where most did first, of equals the newest."""
        newest = reversed(list(self._probing.seen.items()))
        return [address for address, _ in sorted(newest, key=lambda each: -each[1])]

    def _take_untrusted(self, connection: Connection, value: Any) -> PathOffer:
        offer = from_wire_untrusted(PathOffer, value)
        if len(offer.session) != SESSION_BYTES or len(offer.secret) != KEY_BYTES:
            raise WireError("a key of the wrong length")
        if offer.mapping not in MAPPINGS or offer.spray not in ("", WIDEN, SCAN):
            raise WireError("a kind of NAT, or a role, that there is not")
        key = Key(offer.session, offer.secret)
        self._probing.begin(connection, key, offer.addresses, offer.seen)
        self._offers[connection] = offer
        self.try_relay(connection, offer.relay)
        return offer

    def try_relay(self, connection: Connection, url: str | None) -> None:
        """The other end may be reached over a relay, from now on."""
        if url is None or self.relayed is None or connection.steering is None:
            return
        try:
            connection.steering.add_via(trio.current_time(), self.relayed.path(connection.node_id, url).address)
        except RemoteError as error:
            log.debug("no relayed path to %s: %s", connection.node_id.short, error)
        connection.touch()


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()

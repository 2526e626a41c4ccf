"""Both ends of a link tell each other how to find better paths: `atmo/paths/1`.

Whoever dialled asks once the link is ready. Header and answer have one form: the key under which an end takes probes,
and the addresses at which it may be reached, those included at which others saw it. Both ends probe at once. Where
that opens no direct path, both send at the same moment ("punch"): whoever asked waits for half a round trip after the
second request, so that what each sends leaves before what the other sent arrives, and opens its NAT for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import trio

from atmo.errors import RemoteError, WireError
from atmo.net.connection import Connection
from atmo.net.ports import RequestStream
from atmo.net.probing import Probing
from atmo.net.relayed import RelayPaths
from atmo.net.requests import open_request
from atmo.reach.config import FORWARD, RELAY
from atmo.reach.probe import KEY_BYTES, SESSION_BYTES, Key
from atmo.wire import codec
from atmo.wire.address import Address
from atmo.wire.schema import Most, from_wire_untrusted, to_wire

log = logging.getLogger(__name__)

PATHS: Final = "atmo/paths/1"

ADDRESSES_MOST: Final = 8
SEEN_MOST: Final = 4
_ASK_S = 10.0
PUNCH_S: Final = (1.0, 3.0, 10.0, 30.0, 120.0)
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
    """

    session: Annotated[bytes, Most(SESSION_BYTES)]
    secret: Annotated[bytes, Most(KEY_BYTES)]
    addresses: Annotated[tuple[Address, ...], Most(ADDRESSES_MOST)]
    punch: bool = False
    relay: Annotated[str, Most(512)] | None = None
    seen: Annotated[tuple[Address, ...], Most(SEEN_MOST)] = ()


class Lives(Protocol):
    """What this needs of a link."""

    @property
    def connection(self) -> Connection:
        """What it runs over."""

    @property
    def ending(self) -> bool:
        """True from the moment it is being closed."""


class Pathfinder:
    """Has the connections of links find their paths.

    Args:
        probing: Of the endpoint.
        addresses: Returns where this node listens.
    """

    def __init__(self, probing: Probing, addresses: Callable[[], tuple[Address, ...]]) -> None:
        self._probing = probing
        self._addresses = addresses
        self.relayed: RelayPaths | None = None

    async def keep(self, link: Lives) -> None:
        """Asks the other end of a link that this one dialled, then punches for as long as the path is indirect."""
        connection = link.connection
        try:
            await self._ask(connection, punch=False)
            number = 0
            while not link.ending:
                with trio.move_on_after(PUNCH_S[min(number, len(PUNCH_S) - 1)]):
                    await connection.closed.wait()
                if connection.path not in (RELAY, FORWARD):
                    number = 0
                elif not link.ending:
                    number += 1
                    await self._ask(connection, punch=True)
        except RemoteError as error:
            log.debug("no paths to %s: %s", connection.node_id.short, error)

    async def _ask(self, connection: Connection, *, punch: bool) -> None:
        header: dict[str, Any] = to_wire(self._offer(connection, punch=punch))
        async with open_request(connection, PATHS, header, _ASK_S) as stream:
            await stream.finish()
            body = await stream.receive()
        try:
            if body is None:
                raise WireError("no answer")
            self._take_untrusted(connection, codec.decode_untrusted(body))
        except WireError as error:
            raise RemoteError(f"{connection.node_id.short} answered {PATHS} with {error}") from error
        if punch and connection.steering is not None:
            await trio.sleep((connection.rtt_s or 0.0) / 2)
            connection.steering.punch(trio.current_time())
            connection.touch()

    async def serve(self, connection: Connection, stream: RequestStream) -> None:
        """Answers `atmo/paths/1` on a link.

        Raises:
            WireError: The header is not one that an honest node sends.
        """
        offer = self._take_untrusted(connection, stream.header)
        await stream.send(codec.encode(to_wire(self._offer(connection, punch=offer.punch))))
        if offer.punch and connection.steering is not None:
            await trio.sleep(connection.rtt_s or 0.0)
            connection.steering.punch(trio.current_time())
            connection.touch()

    def _offer(self, connection: Connection, *, punch: bool) -> PathOffer:
        key = self._probing.offer(connection)
        addresses = self._addresses()[:ADDRESSES_MOST]
        seen = [address for address, _ in self._probing.seen.most_common() if address not in addresses]
        relay = self.relayed.home() if self.relayed else None
        return PathOffer(key.session, key.secret, addresses, punch, relay, tuple(seen[:SEEN_MOST]))

    def _take_untrusted(self, connection: Connection, value: Any) -> PathOffer:
        offer = from_wire_untrusted(PathOffer, value)
        if len(offer.session) != SESSION_BYTES or len(offer.secret) != KEY_BYTES:
            raise WireError("a key of the wrong length")
        key = Key(offer.session, offer.secret)
        self._probing.begin(connection, key, offer.addresses, offer.seen)
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

"""Several paths under one connection: what the engine `atmo.reach.paths` decides, done with datagrams.

It begins once both ends have told each other the keys of their probes (`net.pathfinder`). From then on QUIC sees one
address for as long as the connection lives, that of the path it began on; which paths the datagrams take, and from
where they come, is decided below it, so that streams survive every change at either end.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable
from random import Random

from atmo.clock import Now
from atmo.errors import RemoteError
from atmo.net.outlet import Outlet
from atmo.net.paths import is_virtual, kind_of
from atmo.net.quic_core import SocketAddress
from atmo.net.udp import to_address
from atmo.reach.config import LAN, PUNCHED, MtuConfig, PathsConfig, Place, Via
from atmo.reach.mtu import PathState, Resized, SendPadded, Sizes
from atmo.reach.paths import Observed, Path, Paths, SendProbe, SendReply, Switched
from atmo.reach.probe import DOUBT, NONCE_BYTES, PROBE, REPLY, Key, seal_probe
from atmo.wire.address import Address

_PLACES_MOST = 64


def is_local(address: Address) -> bool:
    """Says whether an address is of a private, link-local or loopback range."""
    return ipaddress.ip_address(address.host.partition("%")[0]).is_private


class Steering:
    """The paths of one connection.

    Args:
        outlet: Sends datagrams.
        home: The address that QUIC knows the other end by.
        theirs: What the other end told for probes to it.
        follows: See `Paths`.
        now: Monotonic seconds.
        moved: Told when what is sent takes another kind of path.
        seen: Told from which address the other end sees this one.
        resized: Told how large datagrams may be, when that changes.
        config: Of the paths.
        mtu: Of the sizes.
    """

    def __init__(
        self,
        outlet: Outlet,
        home: SocketAddress,
        theirs: Key,
        *,
        follows: bool,
        now: float,
        moved: Callable[[Path, str], None],
        seen: Callable[[Address], None],
        resized: Callable[[int], None],
        config: PathsConfig = PathsConfig(),
        mtu: MtuConfig = MtuConfig(),
    ) -> None:
        self.home = home
        self._outlet = outlet
        self._theirs = theirs
        self._moved = moved
        self._seen = seen
        self._resized = resized
        self._places: dict[SocketAddress, Place] = {}
        self._targets: dict[Place, SocketAddress] = {}
        place = self._place(home)
        rng = Random(os.urandom(16))
        self.paths = Paths(config, rng, Now(now, 0.0), place, self._kind(place), follows=follows)
        self._state = self._path_state()
        self.sizes = Sizes(mtu, rng, self._state)
        self._routes: tuple[SocketAddress, ...] = (home,)
        self._came: dict[SocketAddress, None] = {}

    # --- queries --------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """Of the path that is used now."""
        return self.paths.active.kind

    @property
    def address(self) -> SocketAddress:
        """Where what is sent goes now."""
        return self._routes[0]

    def path_at(self, address: SocketAddress) -> Path | None:
        """Returns what is known of the path to an address."""
        return self.paths.find(self._places[address]) if address in self._places else None

    def knocking(self) -> bytes:
        """Returns a probe whose reply proves nothing, to be sent from elsewhere, or to where the other end may be."""
        return seal_probe(self._theirs, PROBE, os.urandom(NONCE_BYTES))

    # --- datagrams ------------------------------------------------------------------------------------------------

    def send(self, now: float, datagrams: Iterable[tuple[bytes, SocketAddress]], *, awaited: bool) -> None:
        """Sends what QUIC gives: over the active path, and over another one, too, while that is in doubt.

        Args:
            now: Monotonic seconds.
            datagrams: What to send.
            awaited: QUIC waits for an acknowledgement.
        """
        sent = False
        for data, _ in datagrams:
            sent = True
            for target in self._routes:
                if not self._outlet.send(data, target):
                    self.sizes.refused(Now(now, 0.0), self._place(target), len(data))
                    self._try_sizes(now)
        if sent:
            self.paths.sent(Now(now, 0.0), awaited=awaited)

    def came(self, address: SocketAddress) -> None:
        """A packet that names the connection came from an address; `heard` follows when all that came was read."""
        self._came[address] = None

    def heard(self, now: float) -> None:
        """Takes note of where packets came from."""
        came, self._came = self._came, {}
        for address in came:
            place = self._place(address)
            self.paths.heard(Now(now, 0.0), place, self._kind(place))
            self._perform()  # at once: a place that the next one pushes out has no target any more
        self._follow(now)

    def probed(self, now: float, address: SocketAddress, nonce: bytes, *, doubting: bool = False) -> None:
        """A probe of the other end came."""
        place = self._place(address)
        self.paths.probed(Now(now, 0.0), place, self._kind(place), nonce, doubting=doubting)
        self._perform()
        self._follow(now)

    def replied(self, now: float, address: SocketAddress, nonce: bytes, observed: Address | None) -> None:
        """A reply of the other end came."""
        place = self._place(address)
        if self.sizes.replied(Now(now, 0.0), place, nonce):
            self.paths.heard(Now(now, 0.0), place, self._kind(place))
        else:
            self.paths.replied(Now(now, 0.0), place, nonce, observed)
        self._perform()
        self._follow(now)
        self._try_sizes(now)

    def suspect(self, now: float) -> None:
        """It looks as if large datagrams did not arrive any more."""
        self.sizes.suspect(Now(now, 0.0))
        self._try_sizes(now)

    # --- what is told ---------------------------------------------------------------------------------------------

    def add(self, now: float, candidates: Iterable[Address], kind: str) -> None:
        """The other end may be reached at these addresses; private ones are of the kind `lan`."""
        for address in candidates:
            if not self._outlet.may_probe(address):
                continue
            try:
                place = self._place(self._outlet.target(address))
            except RemoteError:
                continue  # of a family, or a scope, that this socket does not have
            self.paths.add(Now(now, 0.0), place, LAN if is_local(address) else kind)
            self._perform()

    def add_via(self, now: float, address: SocketAddress) -> None:
        """The other end may be reached over a virtual path."""
        place = self._place(address)
        self.paths.add(Now(now, 0.0), place, self._kind(place))
        self._perform()

    def punch(self, now: float) -> None:
        """Tries everything that does not work, as the other end does at this moment."""
        self.paths.punch(Now(now, 0.0))
        self._perform()

    def knock(self, address: Address) -> bool:
        """Sends one probe to where the other end may be, without waiting for a reply: if it is there it probes back.
        Says whether this may be sent there at all.
        """
        if not self._outlet.may_probe(address):
            return False
        try:
            self._outlet.send(self.knocking(), self._outlet.target(address))
        except RemoteError:
            return False
        return True

    def lost(self, now: float, address: SocketAddress) -> bool:
        """A virtual path is gone; says whether another one works."""
        self.paths.lost(Now(now, 0.0), self._place(address))
        self._perform()
        self._follow(now)
        return self.paths.active.works

    # --- time -----------------------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        return min(self.paths.next_timer(), self.sizes.next_timer())

    def handle_timer(self, now: float) -> None:
        """Does what is due."""
        if now >= self.paths.next_timer():
            self.paths.handle_timer(Now(now, 0.0))
            self._perform()
            self._follow(now)
        if now >= self.sizes.next_timer():
            self.sizes.handle_timer(Now(now, 0.0))
            self._try_sizes(now)

    def _perform(self) -> None:
        for effect in self.paths.drain():
            match effect:
                case SendProbe(place, nonce, doubting):
                    kind = DOUBT if doubting else PROBE
                    self._outlet.send(seal_probe(self._theirs, kind, nonce), self._target(place))
                case SendReply(place, nonce):
                    observed = place if isinstance(place, Address) else None
                    self._outlet.send(seal_probe(self._theirs, REPLY, nonce, observed), self._target(place))
                case Switched():
                    self._moved(self.paths.active, effect.reason)
                case Observed(address):
                    self._seen(address)
        self._routes = tuple(self._target(place) for place in self.paths.routes())

    def _follow(self, now: float) -> None:
        """Has datagrams of the size that suits the path that is used."""
        active = self.paths.active
        state = self._state
        steady = active.works and not self.paths.doubted
        if (active.place, active.rtt_s is None, steady) != (state.place, state.rtt_s is None, state.steady):
            self._state = self._path_state()
            self.sizes.use(Now(now, 0.0), self._state)
            self._try_sizes(now)

    def _path_state(self) -> PathState:
        active = self.paths.active
        base, most = self._outlet.sizes(self._target(active.place))
        return PathState(active.place, base, most, active.rtt_s, active.works and not self.paths.doubted)

    def _try_sizes(self, now: float) -> None:
        while effects := self.sizes.drain():
            for effect in effects:
                match effect:
                    case SendPadded(place, nonce, size):
                        probe = seal_probe(self._theirs, PROBE, nonce, size=size)
                        if not self._outlet.send(probe, self._target(place)):
                            self.sizes.refused(Now(now, 0.0), place, size)
                    case Resized(size):
                        self._resized(size)

    # --- places and addresses -------------------------------------------------------------------------------------

    def _place(self, address: SocketAddress) -> Place:
        place = self._places.get(address)
        if place is None:
            if len(self._places) >= _PLACES_MOST:
                self._forget_strays()
            place = Via(str(address[0])) if is_virtual(address) else to_address(address)
            self._places[address] = place
            self._targets[place] = address
        return place

    def _forget_strays(self) -> None:
        """Addresses from which something came once, and which are no paths."""
        known = {path.place for path in self.paths.all()}
        self._targets = {place: address for place, address in self._targets.items() if place in known}
        self._places = {address: place for place, address in self._targets.items()}

    def _target(self, place: Place) -> SocketAddress:
        return self._targets[place]

    def _kind(self, place: Place) -> str:
        """Of a place that nobody told of."""
        if isinstance(place, Via):
            return kind_of(self._targets[place])
        return LAN if is_local(place) else PUNCHED

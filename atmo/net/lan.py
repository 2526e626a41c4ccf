"""mDNS on the LAN: says that this node is there, and hears of others (RFC 6762, RFC 6763, by `zeroconf`).

`zeroconf` wants asyncio, so it runs in a thread with an event loop of its own. Over the bridge go, into the thread, the
own advert and the wish to end; out of it, one table of at most `MOST` adverts, which is replaced whenever it changed.
`zeroconf` bounds what it keeps of the LAN's other traffic: 10,000 records of at most 9 kB.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import trio

from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.net.interface_changes import watch_interfaces
from atmo.net.interfaces import Interface
from atmo.net.lan_advert import SERVICE_TYPE, Advert, node_of_untrusted, parse_advert_untrusted

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

MOST = 128
"""Adverts that are kept. Source: guess; a node needs a handful, and `prefer` says whose."""
_UNREAD_MOST = 256
"""Names that wait to be looked at. Source: guess; twice what is kept."""
_ASKS_MOST = 8
"""Nodes at once that are asked for the rest of an advert. Source: guess; adverts mostly come whole."""
_ASK_MS = 3_000
_PAUSE_S = 0.1
"""Between two looks at what was heard: a flood of adverts costs no more than so many of them. Source: guess."""
_CHANGE_S = 2.0
"""Between two changes of the own advert. Source: RFC 6762 section 10.2: who hears a new record forgets older ones only
if it heard them more than a second before, and each is said for half a second."""
_TTL_S = 600
"""For so long others believe that a node is there that went without a goodbye. Source: guess, between the 75 minutes
that RFC 6762 section 10 advises and the 2 minutes of addresses."""
_LEAVE_S = 0.8
"""After this the thread is left to itself. Source: the goodbye is said three times, 125 ms apart; a node ends within
two seconds."""
_RETRY_S = 30.0
_WORDS_MOST = 200
"""After a failure, unless the interfaces change before. Source: guess."""
_NO_NETWORK = "there is no network that others are on"

_NONE: Mapping[NodeId, Advert] = MappingProxyType({})


class _Complaints(logging.Handler):
    """Keeps what the library says is wrong, such as a firewall that refuses its packets, out of the node's log.

    Args:
        lan: Told the first line of it.
    """

    def __init__(self, lan: Lan) -> None:
        super().__init__(logging.WARNING)
        self._lan = lan

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        words = record.getMessage().partition("\n")[0][:_WORDS_MOST]
        self._lan.complaint = words
        log.debug("mDNS: %s", words)


class Lan:
    """Watches one LAN, and adverts a node on it while there is something to advert.

    Args:
        interfaces: Returns the interfaces to use; may block.
        changed: Called when `adverts` has changed.

    Attributes:
        adverts: What others, and this node, say now.
        prefer: Whose adverts are kept first, should there be too many.
        error: Why there is no mDNS now, empty where there is.
        complaint: What the library said last that was wrong, empty for nothing.
    """

    def __init__(
        self, interfaces: Callable[[], tuple[Interface, ...]], changed: Callable[[], None] = lambda: None
    ) -> None:
        self._interfaces = interfaces
        self._changed = changed
        self._advert: Advert | None = None
        self._session: _Session | None = None
        self._moved = trio.Event()
        self.adverts: Mapping[NodeId, Advert] = _NONE
        self.prefer: frozenset[NodeId] = frozenset()
        self.error = self.complaint = ""

    def tell(self, advert: Advert | None) -> None:
        """Says this of the node from now on, None for nothing."""
        if advert != self._advert:
            self._advert = advert
            if self._session:
                self._session.tell(advert)

    async def run(self) -> None:
        """Runs until cancelled; then says goodbye, and returns within a second whatever happens."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_interfaces, lambda: self._moved.set())
            said = ""
            while True:
                self._moved = trio.Event()
                interfaces = await trio.to_thread.run_sync(self._interfaces)
                self._forget()
                error = await self._use(interfaces) if interfaces else _NO_NETWORK
                if error and error != said:
                    level = logging.INFO if error == _NO_NETWORK else logging.WARNING
                    log.log(level, "no nodes are found by mDNS: %s", error)
                self.error = said = error
                if error:
                    with trio.move_on_after(_RETRY_S):
                        await self._moved.wait()

    def _forget(self) -> None:
        """What was heard on other interfaces does not count, and they may work."""
        self.error = self.complaint = ""
        if self.adverts:
            self.adverts = _NONE
            self._changed()

    async def _use(self, interfaces: tuple[Interface, ...]) -> str:
        """Uses these interfaces until there are others; returns why they cannot be used."""
        ended = trio.Event()
        session = self._session = _Session(self, interfaces, ended, trio.lowlevel.current_trio_token())
        session.tell(self._advert)
        session.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_moved, interfaces, nursery.cancel_scope)
                await ended.wait()
                nursery.cancel_scope.cancel()
            return session.error or ("its thread failed" if ended.is_set() else "")
        finally:
            self._session = None
            session.stop()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S):
                await ended.wait()

    async def _until_moved(self, interfaces: tuple[Interface, ...], scope: trio.CancelScope) -> None:
        while True:
            await self._moved.wait()
            self._moved = trio.Event()
            if await trio.to_thread.run_sync(self._interfaces) != interfaces:
                scope.cancel()

    def take(self, session: _Session) -> None:
        """Takes over the table of a session."""
        if session is self._session:
            self.adverts = session.adverts
            self._changed()


class _Session:
    """The thread for one set of interfaces; `tell`, `stop` and what has no underscore are for the trio side."""

    def __init__(
        self, lan: Lan, interfaces: tuple[Interface, ...], ended: trio.Event, token: trio.lowlevel.TrioToken
    ) -> None:
        self._lan = lan
        self._interfaces = interfaces
        self._ended = ended
        self._token = token
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._advert: Advert | None = None
        self._told: Advert | None = None
        self._told_at = -math.inf
        self._info: ServiceInfo | None = None
        self._table: dict[NodeId, Advert] = {}
        self._unread: dict[NodeId, None] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._asks: dict[NodeId, asyncio.Future[Any]] = {}
        self.adverts: Mapping[NodeId, Advert] = _NONE
        self.error = ""

    # --- the trio side --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread; it is a daemon, so that not even a hanging one keeps the process."""
        threading.Thread(target=self._run, name="mdns", daemon=True).start()

    def tell(self, advert: Advert | None) -> None:
        """Adverts this from now on."""
        self._advert = advert
        self._kick()

    def stop(self) -> None:
        """Has the thread say goodbye and end."""
        self._stopping = True
        self._kick()

    def _kick(self) -> None:
        if self._loop:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake.set)

    # --- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        import zeroconf

        complaints = _Complaints(self._lan)
        library = logging.getLogger("zeroconf")
        library.propagate = False
        library.addHandler(complaints)
        try:
            asyncio.run(self._serve())
        except (OSError, RuntimeError, zeroconf.Error) as error:
            self.error = str(error) or type(error).__name__
        finally:
            library.removeHandler(complaints)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended.set)

    async def _serve(self) -> None:
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._loop = asyncio.get_running_loop()
        places: list[str | int | tuple[tuple[str, int, int], int]] = [
            str(interface.ip) for interface in self._interfaces
        ]
        # Questions whose answers go to everyone (QM): of two programs that share port 5353 only one gets an answer that
        # is meant for one machine.
        async with (
            AsyncZeroconf(interfaces=places) as mdns,
            AsyncServiceBrowser(
                mdns.zeroconf, [SERVICE_TYPE], handlers=[self._heard], question_type=DNSQuestionType.QM
            ),
        ):
            while not self._stopping:
                self._wake.clear()
                await self._advertise(mdns)
                self._read(mdns.zeroconf)
                await self._wake.wait()
                await asyncio.sleep(_PAUSE_S)
            for task in self._tasks:
                task.cancel()

    async def _advertise(self, mdns: AsyncZeroconf) -> None:
        """Brings what is said into line with what shall be said; the words go out in the background."""
        advert = self._advert
        if advert == self._told:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._told_at + _CHANGE_S:
            loop.call_at(self._told_at + _CHANGE_S, self._wake.set)
            return
        old, self._info = self._info, self._service(advert) if advert else None
        if self._info is None:
            assert old is not None
            said = await mdns.async_unregister_service(old)
        elif old is None:
            said = await mdns.async_register_service(self._info, cooperating_responders=True)
        else:
            said = await mdns.async_update_service(self._info)
        self._told, self._told_at = advert, loop.time()
        self._keep(asyncio.ensure_future(said))

    def _service(self, advert: Advert) -> ServiceInfo:
        """Returns what is said. The name is a key, so it is not asked first whether somebody else has it: who says so
        could stop us. The tag is another one each time, as caches do not tell of a record that they had before."""
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE_TYPE,
            f"{advert.node}.{SERVICE_TYPE}",
            advert.port,
            properties=advert.txt(os.urandom(4).hex()),
            server=f"{advert.node}.local.",
            other_ttl=_TTL_S,
            parsed_addresses=[
                str(interface.ip)
                for interface in self._interfaces
                if interface.version == 4 or not interface.ip.is_link_local
            ],
        )

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        """Notes of whom something was heard; `zeroconf` calls it with these names."""
        from zeroconf import ServiceStateChange

        try:
            node = node_of_untrusted(name)
        except WireError as error:
            log.debug("a service %.80r: %s", name, error)
            return
        if state_change is ServiceStateChange.Removed:
            self._unread.pop(node, None)
            if self._table.pop(node, None):
                self._publish()
            return
        if len(self._unread) >= _UNREAD_MOST and node in self._lan.prefer:
            self._unread.pop(next((other for other in self._unread if other not in self._lan.prefer), node), None)
        if len(self._unread) < _UNREAD_MOST:
            self._unread[node] = None
        self._wake.set()

    def _read(self, zeroconf: Zeroconf) -> None:
        """Reads the adverts of whom something was heard; those that did not come whole are asked for."""
        from zeroconf.asyncio import AsyncServiceInfo

        changed = False
        wait: dict[NodeId, None] = {}
        for node in self._unread:
            info = AsyncServiceInfo(SERVICE_TYPE, f"{node}.{SERVICE_TYPE}")
            if info.load_from_cache(zeroconf):
                changed |= self._enter_untrusted(node, info)
            elif len(self._asks) >= _ASKS_MOST:
                wait[node] = None
            elif node not in self._asks:
                task = self._asks[node] = asyncio.ensure_future(self._ask(zeroconf, node, info))
                self._keep(task)
        self._unread = wait
        if changed:
            self._publish()

    async def _ask(self, zeroconf: Zeroconf, node: NodeId, info: Any) -> None:
        try:
            if await info.async_request(zeroconf, _ASK_MS) and self._enter_untrusted(node, info):
                self._publish()
        finally:
            del self._asks[node]
            if self._unread:
                self._wake.set()

    def _enter_untrusted(self, node: NodeId, info: ServiceInfo) -> bool:
        """Enters an advert, where there is room or somebody less welcome makes room; returns whether it is news."""
        try:
            advert = parse_advert_untrusted(
                node, info.port, info.text or b"", info.parsed_addresses(), self._interfaces
            )
        except WireError as error:
            log.debug("the advert of %s: %s", node.short, error)
            return False
        if self._table.get(node) == advert:
            return False
        if node not in self._table and len(self._table) >= MOST:
            prefer = self._lan.prefer
            other = next((other for other in self._table if other not in prefer), None) if node in prefer else None
            if other is None:
                return False
            del self._table[other]
        self._table[node] = advert
        return True

    def _publish(self) -> None:
        self.adverts = MappingProxyType(dict(self._table))
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._lan.take, self, idempotent=True)


async def discover(interfaces: tuple[Interface, ...], seconds: float) -> Lan:
    """Watches for some seconds and says nothing; returns what was heard."""
    lan = Lan(lambda: interfaces)
    with trio.move_on_after(seconds):
        await lan.run()
    return lan

"""How far this machine's clock is off: what a few linked members say that the time is (`atmo/clock/1`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import trio

from atmo.errors import RemoteError, WireError
from atmo.identity import NodeId
from atmo.net.ports import MeshPort, RequestStream
from atmo.wire.schema import Most, pack, unpack_untrusted

log = logging.getLogger(__name__)

PROTOCOL = "atmo/clock/1"

ASKED_MOST = 5
"""Source: guess; two liars of five do not move the median."""

_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """The answer of `atmo/clock/1`.

    Attributes:
        unix_us: The wall clock in microseconds since 1970.
    """

    unix_us: Annotated[int, Most(2**62)]


class ClockService:
    """Tells the time, and asks for it.

    Args:
        mesh: Returns the way to others, None without a mesh.
        wall: Reads the wall clock, in Unix seconds.
    """

    def __init__(self, mesh: Callable[[], MeshPort | None], wall: Callable[[], float]) -> None:
        self._mesh = mesh
        self._wall = wall

    async def serve(self, stream: RequestStream) -> None:
        """Answers `atmo/clock/1`: one frame."""
        await stream.send(pack(ClockAnswer(int(self._wall() * 1_000_000))))

    async def offsets(self, nodes: Sequence[NodeId]) -> list[float]:
        """Returns by how many seconds the clocks of those who answer are ahead of this one's; half a round trip is what
        an answer can be wrong by.

        Args:
            nodes: The first few are asked.
        """
        found: list[float] = []
        port = self._mesh()
        if port is not None:
            async with trio.open_nursery() as nursery:
                for node in nodes[:ASKED_MOST]:
                    nursery.start_soon(self._ask, port, node, found)
        return found

    async def _ask(self, port: MeshPort, node: NodeId, found: list[float]) -> None:
        try:
            async with port.request(node, PROTOCOL, {}, _ANSWER_S) as stream:
                began, asked_at = trio.current_time(), self._wall()
                body = await stream.receive()
                took = trio.current_time() - began
            if body is None:
                raise WireError("nothing")
            found.append(unpack_untrusted(ClockAnswer, body).unix_us / 1_000_000 - asked_at - took / 2)
        except (RemoteError, WireError) as error:
            log.debug("%s does not tell the time: %s", node.short, error)


def offset_s(offsets: Sequence[float]) -> float | None:
    """Returns by how much others are ahead of this machine, None where nobody told: the median."""
    ordered, half = sorted(offsets), len(offsets) // 2
    return (ordered[half] + ordered[~half]) / 2 if offsets else None

"""What all backends have in common that stand for a server: trouble told once, and models that fail proved by a call.

A list of models says what a server has, not that it works. So a model whose call failed for a reason of the server's is
doubted: at the next check, which the pool begins at once, a real call of one token decides whether it is offered on.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import trio

from atmo.backends.base import Backend, Call, Part
from atmo.backends.closing import close_parts
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, Capability

log = logging.getLogger(__name__)

PROVE_S = 5.0
"""For all proofs of one check together. Source: choice; half of what the pool gives a check."""

PROVED_AT_ONCE = 2
MAX_DOUBTS = 64
CLOSE_S = 1.0
"""For a call that is given up, to clean up."""

_OWN_FAULTS = frozenset({"no_key", "upstream_refused"})
"""Failures that every model of the server shares; the list of models meets them too."""

_PROOFS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        CHAT: {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
        COMPLETIONS: {"prompt": "ping", "max_tokens": 1},
        EMBEDDINGS: {"input": "ping"},
    }
)
"""The smallest real request of each operation; pictures and sound are too dear, those models are trusted again."""


class ServerBackend(Backend):
    """A backend whose models a server lists and runs.

    Args:
        name: Of the backend.
        recheck_s: Seconds between checks.
        expected: It is somebody's wish that the server is there: its absence is a warning. That of one that was never
            there is no news.
    """

    def __init__(self, name: str, recheck_s: float, *, expected: bool) -> None:
        self.name = name
        self.recheck_s = recheck_s
        self._trouble = ""
        self._level = logging.WARNING if expected else logging.DEBUG
        self._doubts: dict[str, None] = {}

    @abstractmethod
    async def models(self) -> Sequence[Capability]:
        """Lists what the server says it has.

        Raises:
            RequestError: It is away, or no such server.
        """

    @abstractmethod
    def run(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request on the server."""

    async def discover(self) -> Sequence[Capability]:
        """Lists what can be used now; nothing when the server is away, which is told once."""
        try:
            found = list(await self.models())
        except RequestError as error:
            self.note(str(error))
            return []
        self._trouble = ""
        self._level = max(self._level, logging.INFO)
        return await self._without_broken(found)

    async def execute(self, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one request, and remembers whether the server could."""
        parts = self.run(call)
        try:
            async for part in parts:
                yield part
        except RequestError as error:
            if error.status in (502, 504) and error.code not in _OWN_FAULTS:
                self._doubt(call.capability.id)
            raise
        else:
            self._doubts.pop(call.capability.id, None)
        finally:
            await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

    def note(self, text: str) -> None:
        """Logs a trouble with the server once while it lasts."""
        if text != self._trouble:
            log.log(self._level, "%s", text)
        self._trouble = text

    def _doubt(self, key: str) -> None:
        self._doubts.pop(key, None)
        while len(self._doubts) >= MAX_DOUBTS:
            del self._doubts[next(iter(self._doubts))]
        self._doubts[key] = None

    async def _without_broken(self, found: list[Capability]) -> list[Capability]:
        doubted = [capability for capability in found if capability.id in self._doubts]
        self._doubts = {capability.id: None for capability in doubted}
        if not doubted:
            return found
        at_once = trio.CapacityLimiter(PROVED_AT_ONCE)
        with trio.move_on_after(PROVE_S):
            async with trio.open_nursery() as nursery:
                for capability in doubted:
                    nursery.start_soon(self._prove, capability, at_once)
        return [capability for capability in found if capability.id not in self._doubts]

    async def _prove(self, capability: Capability, at_once: trio.CapacityLimiter) -> None:
        """Takes back a doubt where a small real call succeeds."""
        proof = _PROOFS.get(capability.operation)
        if proof is None:
            self._doubts.pop(capability.id, None)
            return
        async with at_once:
            parts = self.execute(Call(capability, proof, request_id="check"))
            try:
                async for _ in parts:
                    log.info("%s answers again", capability.id)
            except RequestError as error:
                if error.status in (400, 429):
                    # It refuses this request and not all: the server works.
                    self._doubts.pop(capability.id, None)
                    return
                log.info("%s is not offered: %s", capability.id, error)
            finally:
                await close_parts(parts, CLOSE_S)  # noqa: ASYNC102 - it shields itself

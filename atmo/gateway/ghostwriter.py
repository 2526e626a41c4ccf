"""Asks a general language model of the mesh, on behalf of a specialist of this machine."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from atmo.backends.base import Object, as_object
from atmo.errors import RequestError
from atmo.gateway.asking import ANYBODY, Asking
from atmo.gateway.execution import Execution
from atmo.gateway.prompt import OPTIONS
from atmo.router.capability import CHAT

_FAILED = "Something went wrong inside this node; its log has the details."

log = logging.getLogger(__name__)


class Execute(Protocol):
    """Runs a request; `Gateway.execute` is one."""

    def __call__(
        self, operation: str, body: Mapping[str, Any], asking: Asking = ANYBODY
    ) -> AbstractAsyncContextManager[Execution]: ...


class Ghostwriter:
    """Has a general model write what a specialist answers.

    Args:
        execute: Runs a request.
        has_model: Says whether the mesh has a general language model.
    """

    def __init__(self, execute: Execute, has_model: Callable[[], bool]) -> None:
        self._execute = execute
        self._has_model = has_model
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries what is asked until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def write(self, body: Mapping[str, Any], asking: Asking = ANYBODY) -> AsyncGenerator[Object, None] | None:
        """Returns the parts of a general model's answer to a chat; None where there is no such model, or none runs."""
        if self._nursery is None or not self._has_model():
            return None
        options = {**(body.get(OPTIONS) or {}), "general_only": True}
        return self._written(self._nursery, {**body, OPTIONS: options}, asking)

    async def _written(
        self, nursery: trio.Nursery, body: Mapping[str, Any], asking: Asking
    ) -> AsyncGenerator[Object, None]:
        """The execution lives in a task of its own: no cancel scope of it may be open where this generator yields."""
        send, receive = trio.open_memory_channel[Object | RequestError](0)
        scope = trio.CancelScope()
        nursery.start_soon(self._ask, body, asking, send, scope)
        try:
            async for item in receive:
                if isinstance(item, RequestError):
                    raise item
                yield item
        finally:
            scope.cancel()
            receive.close()

    async def _ask(
        self,
        body: Mapping[str, Any],
        asking: Asking,
        send: trio.MemorySendChannel[Object | RequestError],
        scope: trio.CancelScope,
    ) -> None:
        with scope, send:
            try:
                async with self._execute(CHAT, body, asking) as execution:
                    try:
                        async for part in execution:
                            await send.send(as_object(part))
                    except RequestError as error:
                        await send.send(error)
            except RequestError as error:
                await send.send(error)
            except Exception:  # it must not end the node, whose task this is
                log.exception("what was asked on behalf of a specialist failed")
                await send.send(RequestError(500, _FAILED, kind="api_error", code="internal_error"))

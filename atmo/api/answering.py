"""Requests that are no HTTP requests of their own, or are answered in another shape: over WebSockets, and by tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from atmo.api.account import ABANDONED, ANSWERED, FAILED, REFUSED, Account, Observer
from atmo.api.errors import INTERNAL
from atmo.api.exchange import whole_answer
from atmo.api.openai.embeddings import as_asked
from atmo.backends.base import Part, as_object
from atmo.errors import RequestError
from atmo.gateway.execution import Execution
from atmo.gateway.gateway import Gateway
from atmo.router.capability import EMBEDDINGS


@contextmanager
def accounted(account: Account, observers: Sequence[Observer]) -> Iterator[None]:
    """Ends the account of a request with the block, and tells the observers, however it ends."""
    try:
        yield
        account.status = 200
        account.end(ANSWERED)
    except RequestError as error:
        account.status, account.error = error.status, error.code or error.kind
        account.end(FAILED if error.status >= 500 else REFUSED)
        raise
    except Exception:
        account.status = INTERNAL.status
        account.end(FAILED)
        raise
    finally:
        account.end(ABANDONED)  # it was cancelled
        for observer in observers:
            observer(account)


async def one_answer(
    gateway: Gateway, operation: str, body: dict[str, Any], account: Account
) -> tuple[dict[str, Any], Execution]:
    """Runs a request; returns its whole answer in the shape of its route, and who gave it.

    Raises:
        RequestError: It cannot be answered.
    """
    part, execution = await whole_answer(gateway, operation, body, account)
    return await shaped(operation, body, part), execution


async def shaped(operation: str, body: dict[str, Any], part: Part) -> dict[str, Any]:
    """Returns a whole answer of a backend in the shape of its route."""
    answer = as_object(part)
    return await as_asked(body, answer) if operation == EMBEDDINGS else answer

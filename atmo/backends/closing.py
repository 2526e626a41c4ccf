"""Ending what is given up."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from atmo.backends.base import Part


async def close_parts(parts: AsyncGenerator[Part, None], within_s: float) -> None:
    """Ends a generator of parts, even where its user was cancelled; one that came to its end costs nothing.

    Args:
        parts: What a backend yields.
        within_s: How long it may take to clean up.
    """
    if getattr(parts, "ag_frame", parts) is not None:
        with trio.move_on_after(within_s, shield=True):
            await parts.aclose()

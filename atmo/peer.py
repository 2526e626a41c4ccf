"""Composes the engines into one engine."""

from __future__ import annotations


class Peer:
    """Filled by the next commit."""

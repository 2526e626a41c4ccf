"""Atmosphere: a peer-to-peer agent that joins machines into one mesh with one OpenAI-compatible endpoint.

The rooms and the direction of imports are described in docs/ARCHITECTURE.md and held by import-linter (setup.cfg).
"""

from atmo.version import __version__

__all__ = ["__version__"]

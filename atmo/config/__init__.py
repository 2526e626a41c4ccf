"""Validated settings: what the configuration file, the environment and the flags say, checked before anything starts.

May import from `errors` and `version` only: settings are plain values that every room above can be given.
"""

from atmo.config.settings import (
    Endpoint,
    ProjectSettings,
    ServerSettings,
    Settings,
    load_settings,
    parse_endpoint,
    resolve_home,
)

__all__ = [
    "Endpoint",
    "ProjectSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
    "parse_endpoint",
    "resolve_home",
]

"""Validated settings: what the configuration file, the environment and the flags say, checked before anything starts.

May import from `errors` and `version` only: settings are plain values that every room above can be given.
"""

from atmo.config.settings import (
    HostPort,
    ProjectSettings,
    ServerSettings,
    Settings,
    load_settings,
    parse_host_port,
    resolve_home,
)

__all__ = [
    "HostPort",
    "ProjectSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
    "parse_host_port",
    "resolve_home",
]

"""How many files and sockets this process may have open."""

from __future__ import annotations

import sys


def raise_file_limit(needed: int) -> int:
    """Lets this process have so many files open, as far as it may; returns how many it may have then."""
    if sys.platform == "win32":
        return needed
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return needed
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most

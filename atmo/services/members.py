"""One member of the mesh as a row for a person: who it is, and by which path it is reached."""

from __future__ import annotations

from typing import Any

from atmo.net.path_report import PathReport
from atmo.peer.views import NodeView


def member_row(
    view: NodeView, report: PathReport | None, *, founder: bool = False, neighbour: bool = False
) -> dict[str, Any]:
    """Returns what a person is told of a member.

    Args:
        view: What the mesh knows of it.
        report: By which path it is reached, None where there is no link.
        founder: It founded the mesh.
        neighbour: It is of the active view.
    """
    return {
        "id": str(view.node),
        "name": view.name,
        "roles": list(view.roles),
        "founder": founder,
        "path": view.path,
        "path_address": report.address if report else None,
        "path_since_s": report.since_s if report else None,
        "standby_paths": list(report.standby) if report else [],
        "no_better_path": (report.why or None) if report else None,
        "rtt_ms": None if view.rtt_s is None else round(view.rtt_s * 1000, 3),
        "last_seen_s": round(view.last_seen_s, 1),
        "self": view.path == "self",
        "present": view.present,
        "neighbour": neighbour,
        "version": view.version,
        "addresses": [str(address) for address in view.addresses],
    }

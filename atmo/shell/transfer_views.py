"""How transfers, their outcomes and the deployment of models are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atmo.shell.text import clock_text, count_text, printable, size_text
from atmo.shell.views import names_text

TRANSFER_HEADERS = (">ID", "MODEL", "STATE", ">DONE", ">SIZE", ">TRAVELLED", ">RATE", ">LEFT", "FROM", "WHY")


def transfer_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the cells of a table of transfers; the last column is a sentence."""
    return [
        [
            str(row["id"]),
            f"{row['name']} {row['version']}",
            _state(row),
            f"{row['percent']:.0f} %",
            size_text(row["bytes_total"]),
            size_text(row.get("travelled_bytes") or 0),
            f"{size_text(row['rate_bytes_s'])}/s" if row.get("rate_bytes_s") else "-",
            clock_text(row["eta_s"]) if row.get("eta_s") is not None else "-",
            names_text(row.get("sources") or []),
            str(row.get("reason") or ""),
        ]
        for row in rows
    ]


def _state(row: Mapping[str, Any]) -> str:
    """Returns the state, in its place what it does where that is no plain download."""
    phase = str(row.get("phase") or "")
    return phase if row["state"] == "running" and phase else str(row["state"])


def result_line(verb: str, row: Mapping[str, Any]) -> str:
    """Returns the line that tells that a model is here."""
    name, version, kind = (printable(row[key]) for key in ("name", "version", "format"))
    size = size_text(row["size_bytes"]) + travel_text(row)
    return f"{verb} {name} {version}: {kind}, {size}, sha256 {printable(row['sha256'])}"


def travel_text(row: Mapping[str, Any]) -> str:
    """Returns how much less than all of a model travelled, as a clause; nothing where all of it did."""
    travelled, copied = row.get("travelled_bytes") or 0, row.get("copied_bytes") or 0
    if not copied and travelled in (0, row["size_bytes"]):
        return ""
    here = f" and {size_text(copied)} were here" if copied else ""
    return f", of which {size_text(travelled)} travelled{here}"


def deployment_lines(status: Mapping[str, Any]) -> list[str]:
    """Returns the lines of `atmo model status`."""
    here: dict[str, list[str]] = {}
    for model in status["here"]:
        here.setdefault(model["name"], []).append(model["version"] + (" (loaded)" if model["loaded"] else ""))
    models, places = status["total_models"], status["total_deployments"]
    lines = [f"The mesh has {count_text(models, 'model')}, in {count_text(places, 'place')}."]
    for name, found in status["by_model"].items():
        counts = found["version_distribution"].items()
        spread = ", ".join(f"{printable(version)} on {count_text(count, 'node')}" for version, count in counts)
        own = f"here {printable(', '.join(here[name]))}" if name in here else "not here"
        lines.append(f"  {printable(name)}: {spread}; {own}")
    took = status["avg_transfer_time_ms"]
    lines.append(
        f"Transfers: {status['pending_transfers']} under way, {status['failed_transfers_24h']} failed in 24 h"
        + (f", {took / 1000:.1f} s on average." if took is not None else ".")
    )
    for row in status["transfers"]:
        why = f": {printable(row['reason'])}" if row["reason"] else ""
        name = f"{printable(row['name'])} {printable(row['version'])}"
        lines.append(
            f"  {row['id']} {name}, {row['state']}, {row['percent']:.0f} % of {size_text(row['bytes_total'])}{why}"
        )
    return lines

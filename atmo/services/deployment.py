"""How models stand in the mesh: which versions are where, and how transfers to this node went."""

from __future__ import annotations

import time
from typing import Any

from atmo.errors import UserError
from atmo.services.catalog import ModelRow, parse
from atmo.services.models import ModelService
from atmo.storage.transfers import GOING, StoredTransfer

DAY_S = 86_400.0


async def deployment_status(models: ModelService, name: str | None, now: float | None = None) -> dict[str, Any]:
    """Returns the deployment status of all models, or of one.

    The fields are those of seed 000: `total_models`, `total_deployments`, `pending_transfers`, `failed_transfers_24h`,
    `avg_transfer_time_ms` (None where none has ended) and `by_model`, where each name has `nodes` and
    `version_distribution`; beside them what is `here`, with `version` and `loaded`, and the `transfers` not over.

    Raises:
        UserError: No node has a model of that name, and no transfer wants one.
    """
    wanted = parse(name).name if name else None
    rows = [row for row in models.rows("mesh") if wanted in (None, row.name)]
    history = [row for row in await models.transfers.history() if wanted in (None, row.name)]
    if wanted and not rows and not history:
        raise UserError(f"No node has a model named {wanted}.", "See `atmo model list --mesh`.")
    here = [
        {"name": model.name, "version": model.version, "loaded": model.loaded_at is not None}
        for model in models.local_models()
        if wanted in (None, model.name)
    ]
    open_rows = [row.to_json() for row in await models.transfers.rows() if wanted in (None, row.name)]
    return {
        "total_models": len({row.name for row in rows}),
        "total_deployments": sum(len(row.nodes) for row in rows),
        **_transfer_figures(history, time.time() if now is None else now),
        "here": here,
        "by_model": _by_model(rows),
        "transfers": open_rows,
    }


def _transfer_figures(history: list[StoredTransfer], now: float) -> dict[str, Any]:
    took = [row.took_s for row in history if row.state == "done"]
    return {
        "pending_transfers": sum(row.state in GOING for row in history),
        "failed_transfers_24h": sum(row.state == "failed" and row.changed_at > now - DAY_S for row in history),
        "avg_transfer_time_ms": round(1_000 * sum(took) / len(took)) if took else None,
    }


def _by_model(rows: list[ModelRow]) -> dict[str, Any]:
    """Counts nodes by name and version; one that has several versions counts once for the name."""
    nodes: dict[str, set[str]] = {}
    versions: dict[str, dict[str, int]] = {}
    for row in rows:
        nodes.setdefault(row.name, set()).update(row.nodes)
        counts = versions.setdefault(row.name, {})
        counts[row.version] = counts.get(row.version, 0) + len(row.nodes)
    return {name: {"nodes": len(nodes[name]), "version_distribution": versions[name]} for name in sorted(nodes)}

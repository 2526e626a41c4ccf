"""What a person can have done with models, each once: the control API serves these jobs, and the commands on a resting
home run the very same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from atmo.services.care import Care
from atmo.services.models import ModelService
from atmo.services.progress import Latest, Report
from atmo.services.publishing import Publishing
from atmo.services.versions import Versions

Kind = Literal["text", "optional", "flag", "names", "trust"]
"""What a field has to be: a text that is not empty, the same or nothing, true or false, a list of names, or a flag or
the id of a node."""


class ModelSide(Protocol):
    """The services that jobs need."""

    @property
    def models(self) -> ModelService: ...
    @property
    def versions(self) -> Versions: ...
    @property
    def publishing(self) -> Publishing: ...
    @property
    def care(self) -> Care: ...


Run = Callable[[ModelSide, Mapping[str, Any], Report], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that can be done.

    Attributes:
        fields: What it takes: name to kind.
        run: Does it; every field is there.
        network: It needs other nodes, so that a resting home takes part in the mesh for it.
    """

    fields: Mapping[str, Kind]
    run: Run
    network: bool = True


async def _pull(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    more = {"trust": given["trust"], "force": given["force"]}
    latest = Latest(report)
    if given["capabilities"]:
        row = await side.models.pull_capable(given["capabilities"], latest, **more)
    else:
        row = await side.models.pull(given["spec"] or "", latest, wait=given["wait"], **more)
    return row.to_json() | latest.travel()


async def _verify(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return (await side.care.verify(given["spec"], report, repair=given["repair"])).to_json()


async def _gc(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.care.collect(dry_run=given["dry_run"])


async def _diff(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.care.diff(given["base"], given["target"], report)


async def _publish(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.publishing.publish(given["spec"], sign=given["sign"])


async def _deprecate(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    if given["undo"]:
        return await side.publishing.undeprecate(given["spec"])
    return await side.publishing.deprecate(given["spec"], given["reason"] or "", given["replacement"] or "")


async def _rollback(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.versions.rollback(given["spec"], report)


async def _update(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.versions.update(given["spec"], report, trust=given["trust"], force=given["force"])


async def _auto(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    return await side.versions.keep(given["spec"], on=given["on"])


async def _trust(side: ModelSide, given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    if given["forget"]:
        return await side.models.consent.forget(given["node"])
    return await side.models.consent.decide(given["node"], trusted=not given["refuse"])


JOBS: Mapping[str, Job] = {
    "pull": Job(
        {"spec": "optional", "capabilities": "names", "wait": "flag", "trust": "trust", "force": "flag"}, _pull
    ),
    "verify": Job({"spec": "optional", "repair": "flag"}, _verify),
    "gc": Job({"dry_run": "flag"}, _gc, network=False),
    "diff": Job({"base": "text", "target": "text"}, _diff),
    "publish": Job({"spec": "text", "sign": "flag"}, _publish, network=False),
    "deprecate": Job({"spec": "text", "reason": "optional", "replacement": "optional", "undo": "flag"}, _deprecate),
    "rollback": Job({"spec": "text"}, _rollback),
    "update": Job({"spec": "text", "trust": "trust", "force": "flag"}, _update),
    "auto": Job({"spec": "text", "on": "flag"}, _auto, network=False),
    "trust": Job({"node": "text", "refuse": "flag", "forget": "flag"}, _trust, network=False),
}
"""Name to job."""

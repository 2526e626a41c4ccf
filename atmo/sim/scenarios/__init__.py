"""The scenarios that come with the program, by name, and how those of a user are found in a file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from atmo.errors import UserError
from atmo.sim.scenario import Scenario
from atmo.sim.scenarios.broadcast import Broadcast
from atmo.sim.scenarios.churn import ChurnScenario
from atmo.sim.scenarios.eclipse import Eclipse
from atmo.sim.scenarios.flash_crowd import FlashCrowd
from atmo.sim.scenarios.index_lookup import IndexLookup
from atmo.sim.scenarios.join_storm import JoinStorm
from atmo.sim.scenarios.mass_failure import MassFailure
from atmo.sim.scenarios.model_rollout import ModelRollout
from atmo.sim.scenarios.model_swarm import ModelSwarm
from atmo.sim.scenarios.packets import Packets
from atmo.sim.scenarios.partition_heal import PartitionHeal
from atmo.sim.scenarios.routing_load import RoutingLoad

BUILT_IN: dict[str, type[Scenario]] = {
    kind.name: kind
    for kind in (
        JoinStorm,
        Broadcast,
        ChurnScenario,
        PartitionHeal,
        MassFailure,
        IndexLookup,
        Eclipse,
        ModelRollout,
        FlashCrowd,
        ModelSwarm,
        RoutingLoad,
    )
}

OF_PACKETS: dict[str, type[Scenario]] = {Packets.name: Packets}
"""What plays in the packet world, found by name like the others: fewer nodes, and no digest that says anything."""


def find_scenario(wanted: str) -> type[Scenario]:
    """Returns the scenario of a name, or that of a Python file; `FILE:NAME` names one of several in a file.

    Raises:
        UserError: There is none, or the file cannot be run.
    """
    if known := BUILT_IN.get(wanted) or OF_PACKETS.get(wanted):
        return known
    file, _, name = wanted.partition(":") if ".py:" in wanted else (wanted, "", "")
    path = Path(file)
    if path.suffix != ".py":
        names = ", ".join((*BUILT_IN, *OF_PACKETS))
        raise UserError(f"There is no scenario {wanted!r}.", f"There are {names}, and files such as my_scenario.py.")
    found = {kind.name: kind for kind in _scenarios(_load(path))}
    if name and name in found:
        return found[name]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise UserError(
            f"{path} holds no scenario.",
            "One is a subclass of atmo.sim.scenario.Scenario with a name and a method play.",
        )
    raise UserError(f"{path} holds {', '.join(found)}.", f"Name one, such as {path}:{next(iter(found))}.")


def _scenarios(module: ModuleType) -> Iterator[type[Scenario]]:
    for value in vars(module).values():
        mine = isinstance(value, type) and issubclass(value, Scenario) and value.__module__ == module.__name__
        if mine and isinstance(getattr(value, "name", None), str) and not inspect.isabstract(value):
            yield value


def _load(path: Path) -> ModuleType:
    name = f"_scenario_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    return module

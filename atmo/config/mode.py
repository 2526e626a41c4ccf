"""Modes of operation (seed 003): what a node announces, routes, accepts and serves. `docs/MODES.md` has the table."""

from __future__ import annotations

from dataclasses import dataclass, replace

STANDALONE, PROVIDER, PARTICIPANT, HEADLESS = "standalone", "provider", "participant", "headless"


@dataclass(frozen=True, slots=True)
class ModeRules:
    """What a mode means.

    Attributes:
        mode: Its name.
        mesh: The node takes part in its mesh at all: it opens a socket and has links.
        announces: The mesh, and the LAN, are told of it and of what it can run and holds.
        accepts: It runs requests of other nodes.
        routes_away: It sends requests to other nodes.
        serves: Programs of this machine may send requests to its endpoint; health, metrics and the commands of this
            machine always may.
    """

    mode: str
    mesh: bool = True
    announces: bool = True
    accepts: bool = True
    routes_away: bool = True
    serves: bool = True


_RULES = {
    STANDALONE: ModeRules(STANDALONE, mesh=False, announces=False, accepts=False, routes_away=False),
    PROVIDER: ModeRules(PROVIDER, routes_away=False),
    PARTICIPANT: ModeRules(PARTICIPANT),
    HEADLESS: ModeRules(HEADLESS, routes_away=False, serves=False),
}
MODES = tuple(_RULES)


def rules_of(mode: str, *, discoverable: bool = True, mesh: bool = True) -> ModeRules:
    """Returns the rules of a node.

    Args:
        mode: One of `MODES`.
        discoverable: Otherwise nobody is told of it, so that it runs nothing for others either.
        mesh: Otherwise it has nothing to do with others, whatever its mode.
    """
    rules = _RULES[mode]
    if not mesh:
        return replace(rules, mesh=False, announces=False, accepts=False, routes_away=False)
    return rules if discoverable else replace(rules, announces=False, accepts=False)

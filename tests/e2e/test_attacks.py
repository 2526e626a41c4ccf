"""A node under attack answers others, and its memory stays within bounds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import NodeProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from torture_attack import CLOSED, Seen, Target, attack
from torture_http import ATTACKS

pytestmark = pytest.mark.e2e

REFUSED = {
    "slow-loris": set(),
    "connections": set(),
    "big-body": {413, CLOSED},
    "uploads": {404, 429, 503},
    "nested": {400},
    "odd-text": {400, 404, 505, CLOSED},
    "huge-headers": {400, 414, 431, CLOSED},
    "half-closed": {200, 400, CLOSED},
    "pipelining": set(),
    "upgrades": {101, 400, 403, 404, 426, CLOSED},
    "many-clients": {200, 429, 503},
}
"""What an attacker may be answered."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("attacked") / "alpha", "alpha", ["--no-lan"]) as running:
        yield running


def target_of(node: NodeProcess) -> Target:
    return Target(int(node.info["http"].rpartition(":")[2]), node.info["pid"])


@pytest.mark.parametrize("name", list(ATTACKS))
async def test_others_are_served(node: NodeProcess, name: str) -> None:
    how, amount, _ = ATTACKS[name]
    seen: Seen = await attack(target_of(node), how, amount)
    print(f"{name}: {seen}")
    assert set(seen.statuses) <= REFUSED[name], str(seen)
    assert not node.ended, node.log()
    for word in ("Traceback", "Exception"):
        assert word not in node.log()

"""One peer for all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.peer import running_peer
from tests.e2e.processes import NodeProcess


@pytest.fixture(scope="package")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A peer with a language model and an embedder, both random."""
    with running_peer(tmp_path_factory.mktemp("clients")) as node:
        yield node

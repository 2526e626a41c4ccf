"""`/v1/mesh/models`: what the mesh holds, as a real catalog of two nodes tells it."""

from __future__ import annotations

from pathlib import Path

from tests.api.face import in_process, make_app
from tests.gateway.world import loop_net
from tests.services.kit import mesh, model_file


async def test_the_mesh_tells_who_has_what(tmp_path: Path) -> None:
    async with mesh(tmp_path, "a", "b") as (a, b), loop_net() as net:
        row = await a.service.import_model(model_file(tmp_path, 1), name="weights", version="1.2")
        async with in_process(make_app(await net.add("alpha"), models=b.service)) as client:
            answer = await client.get("/v1/mesh/models")
    assert answer.status_code == 200
    versions = answer.json()["mesh_models"]["weights"]["versions"]
    assert row.version == "1.2"
    assert list(versions) == ["1.2"]
    assert versions["1.2"]["nodes"] == ["a"]
    assert versions["1.2"]["deprecated"] is False

"""Roles, deprecations and profiles between real nodes on loopback: who may not read gets nothing, by QUIC or TCP."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import yaml

from atmo.errors import UserError
from atmo.services.access import Access
from atmo.services.fetch import NotThere, fetch_manifest
from atmo.services.machine import find_gpu, this_hardware, this_profile
from atmo.services.publishing import Publishing
from atmo.storage.eviction import Limits
from tests.services.machines import Machine, machine, names_seen
from tests.services.test_pull_over_quic import MIB, has_holders, safetensors


async def mesh(stack: AsyncExitStack, tmp_path: Path, *, use_tcp: bool) -> tuple[Machine, Machine, Machine]:
    """A founder, a gateway and an edge node; the founder has a model for gateways."""
    anna, bert, cleo = [
        await stack.enter_async_context(machine(tmp_path, name, use_tcp=use_tcp)) for name in ("anna", "bert", "cleo")
    ]
    await anna.service.create("home")
    await bert.service.join((await anna.service.invite(role="gateway"))["code"])
    await cleo.service.join((await anna.service.invite(role="edge"))["code"])
    for one in (anna, bert, cleo):
        await names_seen(one, {"anna", "bert", "cleo"})
    source = tmp_path / "weights.safetensors"
    safetensors(source, 2 * MIB)
    source.with_name(source.name + ".yaml").write_text(yaml.safe_dump({"access": {"read": ["gateway"]}}))
    await anna.models.import_model(source, name="weights", version="1.0")
    for one in (bert, cleo):
        await has_holders(one, {"anna"})
    return anna, bert, cleo


@pytest.mark.parametrize("use_tcp", [False, True])
async def test_only_members_with_the_role_get_the_model(tmp_path: Path, use_tcp: bool) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo = await mesh(stack, tmp_path, use_tcp=use_tcp)
        assert (await bert.models.pull("weights")).local
        with pytest.raises(UserError, match="only for members with the role gateway; this node's: edge"):
            await cleo.models.pull("weights")
        (model,) = anna.models.local_models()
        places = list(model.manifest.chunk_places())
        fetcher = cleo.models._downloads.fetcher
        for holder in (anna, bert):
            with pytest.raises(NotThere, match="this node's roles"):
                await fetcher.fetch(cleo.driver, holder.signer.node_id, places[0], lambda data: True)
        (offer, *_) = cleo.driver.peer.models(cleo.driver.now())
        with pytest.raises(NotThere, match="this node's roles"):
            await fetch_manifest(cleo.driver, anna.signer.node_id, offer.record)
        assert anna.models.server.stats.forbidden == 2
        assert isinstance(anna.models._access, Access)
        assert fetcher.stats.tcp_chunks == fetcher.stats.quic_chunks == 0


async def test_what_a_founder_advises_against_and_what_nodes_have_is_known(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        anna, bert, cleo = await mesh(stack, tmp_path, use_tcp=False)
        publishing = Publishing(anna.models, anna.models._storage, anna.signer, anna.host.mesh)
        await publishing.deprecate("weights@<2", "It is wrong.")
        profile = this_profile(("chat",), Limits(max_models=7, max_model_bytes=5 * MIB))
        bert.driver.peer.publish_profile(bert.driver.now(), profile)
        bert.driver.kick()
        with trio.fail_after(10):
            while not cleo.models.rows("mesh")[0].deprecated:
                await trio.sleep(0.02)
            while not cleo.driver.peer.profile(bert.signer.node_id).packages:
                await trio.sleep(0.02)
        known = cleo.driver.peer.profile(bert.signer.node_id)
        assert (known.max_models, known.max_model_size_mb, known.interests) == (7, 5, ("chat",))
        assert any(line.startswith("numpy==") for line in known.packages)
        assert known.cpu_cores == this_hardware().cpu_cores
        await cleo.driver.flush()
        assert [key for key in cleo.on_disk() if "/deprecation/" in key], "it counts after a restart, too"


def test_gpus_are_found_where_their_drivers_tell_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    nvidia, drm = tmp_path / "nvidia", tmp_path / "drm"
    assert find_gpu(nvidia, drm) is None
    for card, vendor, memory in (("card0", "0x8086", ""), ("card1", "0x1002", "0"), ("card2", "0x1002", "8589934592")):
        device = drm / card / "device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        if memory:
            (device / "mem_info_vram_total").write_text(f"{memory}\n")
        assert find_gpu(nvidia, drm) == ("AMD GPU" if card == "card2" else None)
    folder = nvidia / "0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Video BIOS:\t?\nModel: \t\t NVIDIA RTX 4090\nIRQ: 1\n")
    assert find_gpu(nvidia, drm) == "NVIDIA RTX 4090"
    (folder / "information").write_text("nothing of use")
    assert find_gpu(nvidia, drm) == "AMD GPU"
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    for machine_, gpu in (("arm64", "Apple GPU"), ("x86_64", None)):
        monkeypatch.setattr("platform.machine", lambda name=machine_: name)
        assert find_gpu(nvidia, drm) == gpu

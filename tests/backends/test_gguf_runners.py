"""The processes that run GGUF models: started when asked, ended when idle, and never the end of the node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import mkdtemp
from types import MappingProxyType

import pytest
import trio

from atmo.backends import gguf, store
from atmo.backends.base import Call, Head, Part, as_object
from atmo.backends.gguf import GgufBackend
from atmo.backends.gguf_file import plan_for, read_facts_untrusted
from atmo.backends.gguf_runners import Memory, RunnersConfig
from atmo.backends.pool import FOREVER, BackendPool
from atmo.errors import RequestError
from tests.backends.gguf_kit import ENDLESS, Lab, chat_file, lab, says, slow_file, stored

pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")

ONE = {**says("Hi"), "max_tokens": 1}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def gone(pid: int) -> bool:
    with trio.move_on_after(10):
        while Path(f"/proc/{pid}").exists():
            await trio.sleep(0.01)
        return True
    return False


async def drained(parts: AsyncGenerator[Part, None]) -> None:
    async for _ in parts:
        continue


async def refused(here: Lab, model: str = "tiny") -> RequestError:
    with pytest.raises(RequestError) as caught:
        await here.ask(ONE, model)
    return caught.value


async def test_a_model_is_loaded_when_it_is_asked_and_ended_when_nobody_asks() -> None:
    clock = Clock()
    async with lab(clock=clock) as here:
        assert not here.runners.loaded()
        assert here.backend.loads()[0]["loaded"] is False
        await here.ask(ONE)
        process = here.process
        folder = Path(process.socket).parent
        [status] = here.backend.loads()
        assert (status["capability"], status["loaded"]) == ("gguf:tiny@1.0", True)
        assert status["need_bytes"] == process.order.plan.need_bytes
        assert process.resident_bytes() > 1_000_000
        await here.look()
        assert here.process is process, "it was asked a moment ago"
        assert here.backend.recheck_s == here.runners.config.look_s
        clock.now += here.runners.config.idle_s
        await here.look()
        assert not here.runners.loaded()
        assert await gone(process.pid)
        assert not folder.exists()
        await here.ask(ONE)
        assert here.runners.stats.loads == 2


async def test_a_model_in_use_is_not_idle_and_one_that_was_removed_is_ended() -> None:
    clock = Clock()
    async with lab(clock=clock) as here:
        parts = here.backend.execute(here.call({**says("Hi"), **ENDLESS}, stream=True))
        await anext(parts)
        clock.now += 10_000
        await here.look()
        pid = here.process.pid
        await parts.aclose()
        here.models.clear()
        call = here.call(ONE)
        await here.look()
        assert not here.runners.loaded()
        assert await gone(pid)
        assert here.backend.recheck_s == FOREVER
        with pytest.raises(RequestError, match="was removed"):
            await anext(here.backend.execute(call))


async def test_a_process_that_is_killed_in_mid_stream_is_an_error_and_the_next_request_starts_another() -> None:
    clock = Clock()
    async with lab(stored(slow_file()), clock=clock) as here:
        parts = here.backend.execute(here.call({**says("Hi"), **ENDLESS}, stream=True))
        for _ in range(3):
            await anext(parts)
        os.kill(here.process.pid, signal.SIGKILL)
        with pytest.raises(RequestError, match="was ended by SIGKILL") as caught:
            await drained(parts)
        assert (caught.value.status, caught.value.code) == (502, "model_process_ended")
        soon = await refused(here)
        assert (soon.status, soon.code, soon.retry_s) == (503, "model_restarting", 1.0)
        clock.now += 1
        assert (await here.ask(ONE))["choices"]
        assert (here.runners.stats.died, here.runners.stats.loads) == (1, 2)


async def test_a_process_that_dies_while_it_loads_is_tried_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.backends.gguf_process._MODULE", "keyword")  # a module that ends without a word
    clock = Clock()
    async with lab(clock=clock) as here:
        for pause in (1.0, 2.0, 4.0):
            error = await refused(here)
            assert error.status == 503
            assert "could not be loaded: its process ended with code 0" in error.message
            clock.now += pause / 2
            assert (await refused(here)).code in ("model_restarting", "model_unusable")
            clock.now += pause / 2
        assert (await refused(here)).code == "model_unusable"
        assert here.runners.stats.loads == 3
        assert not await here.look(), "it is not offered any more"


async def test_a_file_that_llama_cpp_refuses_is_not_offered_any_more(tmp_path: Path) -> None:
    path = tmp_path / "lying.gguf"
    # A tensor has another name than llama.cpp looks for.
    path.write_bytes(chat_file().read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight"))
    async with lab(stored(path)) as here:
        assert "tiny" in here.capabilities
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(refused, here)
        error = await refused(here)
        assert (error.status, error.code) == (503, "model_unusable")
        assert "blk.1.ffn_down.weight" in error.message
        assert str(tmp_path) not in error.message
        assert here.runners.stats.loads == 1
        assert not await here.look()


async def test_many_who_ask_a_cold_model_wait_for_one_load() -> None:
    async with lab() as here:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(here.ask, ONE)
        assert here.runners.stats.loads == 1


async def test_a_load_goes_on_when_who_asked_gives_up() -> None:
    async with lab() as here:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.ask, ONE)
                while not here.runners.stats.loads:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        await here.ask(ONE)
        assert here.runners.stats.loads == 1


async def test_a_load_counts_as_waiting() -> None:
    heads: list[Head] = []
    async with lab() as here:
        pool = BackendPool([here.backend])
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            call = Call(pool.capabilities()[0], {**ONE, "reasoning_effort": "low"}, begun=heads.append)
            parts = [as_object(part) async for part in pool.execute(call)]
            parts += [as_object(part) async for part in pool.execute(call)]
            [state] = pool.states()
            assert state.models[0]["load_ms"] in here.runners.load_ms.values()
            nursery.cancel_scope.cancel()
    assert len(parts) == 2
    cold, warm = heads
    assert cold.ignored == ("reasoning_effort",)
    assert cold.queue_s * 1_000 >= next(iter(here.runners.load_ms.values())) > warm.queue_s * 1_000


def memory_of(models: int) -> tuple[int, Callable[[], int]]:
    """Returns what a tiny model takes, and a machine's total in which so many fit."""
    need = plan_for(read_facts_untrusted(chat_file()), 10**10).need_bytes
    most = int(need * models / RunnersConfig().share) + 1_000_000
    return need, lambda: most


async def test_the_model_that_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    _, total = memory_of(2)
    clock = Clock()
    models = [stored(Path(copyfile(chat_file(), tmp_path / f"{name}.gguf")), name) for name in "abc"]
    async with lab(*models, machine=Memory(total=total), clock=clock) as here:

        def loaded() -> set[str]:
            return {process.order.path.stem for process in here.runners.loaded().values()}

        for name in "aba":
            await here.ask(ONE, name)
            clock.now += 1
        assert loaded() == {"a", "b"}
        await here.ask(ONE, "c")
        assert loaded() == {"a", "c"}
        assert here.runners.stats.ended_for_room == 1
        using = [here.backend.execute(here.call({**says("Hi"), "max_tokens": 100}, name, stream=True)) for name in "ac"]
        for parts in using:
            await anext(parts)
        error = await refused(here, "b")
        assert (error.status, error.code) == (503, "out_of_memory")
        assert "2 that are loaded are in use" in error.message
        for parts in using:
            await parts.aclose()


async def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    need, total = memory_of(1)
    free = need // 2 + RunnersConfig().spare_bytes
    async with lab(machine=Memory(total=total, free=lambda: free)) as here:
        error = await refused(here)
        assert (error.status, error.code, error.retry_s) == (503, "out_of_memory", 30)
        assert "needs 0.3 GiB of memory and 0.1 GiB are free on this machine" in error.message
        assert here.runners.stats.loads == 0
    async with lab(machine=Memory(total=lambda: need)) as here:
        assert not here.capabilities, "it never fits"


async def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmo.backends.gguf_process.ANSWER_S", 3.0)
    async with lab() as here:
        await here.ask(ONE)
        pid = here.process.pid
        os.kill(pid, signal.SIGSTOP)
        error = await refused(here)
        assert error.status == 504
        assert await gone(pid)


def pid_of_the_past() -> int:
    """Returns the id of a process that has ended."""
    node = subprocess.Popen([sys.executable, "-c", ""])
    node.wait()
    return node.pid


async def test_what_a_killed_node_left_is_swept_away() -> None:
    left = Path(mkdtemp(prefix=f"atmo-gguf-{pid_of_the_past()}-"))
    (left / "log.txt").write_text("x")
    kept = Path(mkdtemp(prefix=f"atmo-gguf-{os.getpid()}-"))
    async with lab():
        assert not left.exists()
        assert kept.exists()
    kept.rmdir()


async def test_the_process_has_no_network_and_no_files_but_its_own() -> None:
    async with lab() as here:
        await here.ask(ONE)
        process = here.process
        own = Path("/proc/self/ns/net").readlink()
        if os.geteuid() == 0:
            assert Path(f"/proc/{process.pid}/ns/net").readlink() != own
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert str(2 * process.order.plan.need_bytes + 3 * 1024**3) in limits
        assert (Path(process.socket).parent.stat().st_mode & 0o077) == 0


async def test_without_the_extra_nothing_is_offered_and_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "EXTRAS", MappingProxyType({"gguf": ("no_such_package", "atmosphere-mesh[gguf]")}))
    backend = GgufBackend(lambda: [stored(chat_file())])
    assert not await backend.discover()
    assert not await backend.discover()
    assert [record.getMessage() for record in caplog.records] == [
        "1 models in GGUF files are kept and not run here: pip install 'atmosphere-mesh[gguf]'"
    ]


async def test_files_that_are_damaged_or_of_other_types_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(chat_file().read_bytes()[:-1_000])
    missing = replace(stored(chat_file()), path=tmp_path / "gone.gguf", name="gone")
    models = [stored(cut, "cut"), missing, stored(chat_file(), "class", "classifier"), stored(chat_file(), "fine")]
    async with lab(*models) as here:
        assert list(here.capabilities) == ["fine"]
        await here.look()
    told = [record.getMessage() for record in caplog.records if record.name == gguf.__name__]
    assert len(told) == 2
    assert "model cut 1.0 is left out: the file is cut short" in told[0]
    assert "model gone 1.0 is left out: No such file" in told[1]

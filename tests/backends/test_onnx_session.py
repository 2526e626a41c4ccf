"""What a small graph may make of the node's memory."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atmo.backends.onnx_file import BadModelFile
from atmo.backends.onnx_session import SessionCache, run_session
from tests.backends.graphs import linear, model, save, tensor

X = np.ones((1, 4), np.float32)
MIB = 1024**2


def filled(side: int) -> onnx.ModelProto:
    """X[N, 4] + the sum of side * side zeros that the graph makes."""
    shape = helper.make_tensor("v", TensorProto.INT64, [2], [side, side])
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["X", "sum"], ["Y"]),
    ]
    return model(nodes, [tensor("X", [None, 4])], [tensor("Y", [None, 4])], {})


def expanded(times: int, rows: int) -> onnx.ModelProto:
    """X[N, 4] + constants that are `rows` times as large when they are folded."""
    weights = {"s": np.array([rows, 1, 4], np.int64), "axis": np.array([0], np.int64)}
    nodes, last = [], "X"
    for index in range(times):
        weights[f"c{index}"] = np.full(4, index, np.float32)
        nodes.append(helper.make_node("Expand", [f"c{index}", "s"], [f"b{index}"]))
        nodes.append(helper.make_node("Add", [last, f"b{index}"], [f"z{index}"]))
        last = f"z{index}"
    nodes.append(helper.make_node("ReduceMax", [last, "axis"], ["Y"], keepdims=0))
    return model(nodes, [tensor("X", [None, 4])], [tensor("Y", [None, 4])], weights)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_graph_that_asks_for_too_much_fails_and_others_go_on(tmp_path: Path) -> None:
    sessions = SessionCache()
    before = peak()
    for name, proto in (("filled", filled(40_000)), ("expanded", expanded(1, 375_000_000))):
        loaded = sessions.load(save(proto, tmp_path / f"{name}.onnx"))
        for _ in range(2):
            with pytest.raises(BadModelFile, match=r"it failed to run: .*memory"):
                await run_session(loaded, ["Y"], {"X": X})
    assert peak() - before < 1024 * MIB
    fine = sessions.load(save(linear(4), tmp_path / "fine.onnx"))
    assert (await run_session(fine, ["scores"], {"X": X}))[0].shape == (1, 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the resident memory on Linux only")
async def test_what_a_run_took_goes_back(tmp_path: Path) -> None:
    loaded = SessionCache().load(save(filled(8_000), tmp_path / "m.onnx"))
    before = resident()
    answer = await run_session(loaded, ["Y"], {"X": X})
    assert answer[0].tolist() == X.tolist()
    assert resident() - before < 100 * MIB


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells the resident memory on Linux only")
def test_loading_does_not_unfold_constants(tmp_path: Path) -> None:
    before = resident()
    loaded = SessionCache().load(save(expanded(4, 5_000_000), tmp_path / "m.onnx"))
    assert loaded.signature.inputs[0].name == "X"
    assert resident() - before < 50 * MIB

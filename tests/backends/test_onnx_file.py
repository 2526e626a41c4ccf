from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from atmo.backends.onnx_file import BadModelFile, check_onnx_file
from atmo.storage.formats import protobuf
from tests.backends.graphs import linear, model, save, tensor

X, Y = tensor("X", [None, 2]), tensor("Y", [None, 2])


def reason(path: Path) -> str:
    with pytest.raises(BadModelFile) as caught:
        check_onnx_file(path)
    return str(caught.value)


def test_plain_models_pass(tmp_path: Path) -> None:
    check_onnx_file(save(linear(), tmp_path / "m.onnx"))


def test_damaged_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = linear().SerializeToString()
    path.write_bytes(b"")
    assert reason(path) == "the file is empty"
    path.write_bytes(whole[:-20])
    assert "cut short" in reason(path)
    path.write_bytes(b"<html>not a model</html>")
    assert reason(path) == "the file is not a protocol buffer"
    path.write_bytes(onnx.GraphProto(name="only a graph").SerializeToString())
    assert "not an ONNX model" in reason(path)
    with pytest.raises(FileNotFoundError):
        check_onnx_file(tmp_path / "absent.onnx")


def external() -> onnx.TensorProto:
    weights = numpy_helper.from_array(np.zeros((2, 2), np.float32), "W")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../secret")
    return weights


def in_initializer() -> onnx.ModelProto:
    proto = model([helper.make_node("MatMul", ["X", "W"], ["Y"])], [X], [Y], {})
    proto.graph.initializer.append(external())
    return proto


def in_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["W"], value=external())
    return model([constant, helper.make_node("MatMul", ["X", "W"], ["Y"])], [X], [Y], {})


def in_subgraph() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Identity", ["W"], ["Z"])], "inner", [], [tensor("Z", [2, 2])])
    inner.initializer.append(external())
    node = helper.make_node("If", ["c"], ["Z"], then_branch=inner, else_branch=inner)
    return model([node], [X], [Y], {"c": np.array(True)})


def in_function() -> onnx.ModelProto:
    proto = linear()
    constant = helper.make_node("Constant", [], ["W"], value=external())
    proto.functions.append(helper.make_function("mine", "f", [], ["W"], [constant], [helper.make_opsetid("", 18)]))
    return proto


def in_sparse() -> onnx.ModelProto:
    proto = linear()
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external())
    return proto


@pytest.mark.parametrize("make", [in_initializer, in_constant, in_subgraph, in_function, in_sparse])
def test_weights_in_other_files_are_refused_wherever_they_hide(tmp_path: Path, make: object) -> None:
    assert callable(make)
    assert "other files" in reason(save(make(), tmp_path / "m.onnx"))


def test_custom_operators_are_named(tmp_path: Path) -> None:
    node = helper.make_node("Spin", ["X"], ["Y"], domain="com.acme")
    path = save(model([node], [X], [Y], {}, domains=["com.acme"]), tmp_path / "m.onnx")
    assert "com.acme::Spin" in reason(path)


def test_functions_of_the_model_itself_are_no_custom_operators(tmp_path: Path) -> None:
    proto = model([helper.make_node("Twice", ["X"], ["Y"], domain="mine")], [X], [Y], {}, domains=["mine"])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    check_onnx_file(save(proto, tmp_path / "m.onnx"))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["X"], ["Y"])], "g", [], [Y])
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["Y"], then_branch=inner)
        inner = helper.make_graph([node], "g", [], [Y])
    proto = model([helper.make_node("If", ["c"], ["Y"], then_branch=inner)], [X], [Y], {})
    assert "nested" in reason(save(proto, tmp_path / "m.onnx"))


def test_large_attribute_lists_are_skipped_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(np.arange(60_000, dtype=np.float32))
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["X"],
        ["Y"],
        domain="ai.onnx.ml",
        nodes_values=numbers,
        nodes_modes=["LEAF", "BRANCH_LEQ"] * 1_000,
        nodes_treeids=range(20_000),
    )
    path = save(model([node], [X], [Y], {}, domains=["ai.onnx.ml"]), tmp_path / "m.onnx")
    monkeypatch.setattr(protobuf, "FIELDS_MOST", 1_000)
    check_onnx_file(path)


WHOLE = in_subgraph().SerializeToString()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(1, len(WHOLE)))
def test_only_its_own_error_escapes(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path = tmp_path / "m.onnx"
    path.write_bytes(data[:length])
    try:
        check_onnx_file(path)
    except BadModelFile:
        return

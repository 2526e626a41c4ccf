"""Isolation forests as one ONNX tree ensemble. Runs in child processes only: imports skl2onnx.

skl2onnx writes a node or more for each tree: 8.6 s to convert a hundred trees against 0.36 s for this module
(docs/measurements.md), and slow to run. The path length is what a `TreeEnsembleRegressor` sums when each leaf weighs
its depth plus the expected depth of what was not grown below.

Source: F. T. Liu, K. M. Ting, Z.-H. Zhou, "Isolation Forest", ICDM 2008, equations 1 and 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.ensemble import IsolationForest

_EULER_GAMMA = float(np.euler_gamma)


def register() -> None:
    """Has skl2onnx convert isolation forests by this module, alone and within pipelines."""
    update_registered_converter(
        IsolationForest,
        "AtmosphereIsolationForest",
        _shapes,
        _convert,
        parser=_parse,
    )


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    operator = scope.declare_local_operator("AtmosphereIsolationForest", model)
    operator.inputs = list(inputs)
    for name, kind in (("label", Int64TensorType), ("score_samples", FloatTensorType)):
        operator.outputs.append(scope.declare_local_variable(name, kind()))
    return operator.outputs


def _shapes(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = Int64TensorType([rows, 1])
    operator.outputs[1].type = FloatTensorType([rows, 1])


def _convert(scope: Any, operator: Any, container: Any) -> None:
    forest: IsolationForest = operator.raw_operator
    label, samples = (output.full_name for output in operator.outputs)
    depth, negated, scaled, score, below = (scope.get_unique_variable_name(f"if_{i}") for i in range(5))
    scale = -1.0 / (len(forest.estimators_) * max(float(_average_path(np.array([forest.max_samples_]))[0]), 1e-12))
    names = {}
    for name, values, kind in (
        ("scale", [scale], 1),
        ("two", [2.0], 1),
        ("offset", [float(forest.offset_)], 1),
        ("in", [1], 7),
        ("out", [-1], 7),
    ):
        names[name] = scope.get_unique_variable_name(f"if_{name}")
        container.add_initializer(names[name], kind, [1], values)
    container.add_node(
        "TreeEnsembleRegressor",
        operator.inputs[0].full_name,
        depth,
        op_domain="ai.onnx.ml",
        op_version=1,
        name=scope.get_unique_operator_name("IsolationForest"),
        **_attributes(forest),
    )
    container.add_node(
        "Mul", [depth, names["scale"]], scaled, op_version=14, name=scope.get_unique_operator_name("Mul")
    )
    container.add_node(
        "Pow", [names["two"], scaled], negated, op_version=15, name=scope.get_unique_operator_name("Pow")
    )
    container.add_node("Neg", negated, samples, op_version=13, name=scope.get_unique_operator_name("Neg"))
    container.add_node(
        "Sub", [samples, names["offset"]], score, op_version=14, name=scope.get_unique_operator_name("Sub")
    )
    container.add_node(
        "Less", [samples, names["offset"]], below, op_version=13, name=scope.get_unique_operator_name("Less")
    )
    container.add_node(
        "Where",
        [below, names["out"], names["in"]],
        label,
        op_version=16,
        name=scope.get_unique_operator_name("Where"),
    )


def _attributes(forest: IsolationForest) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_featureids",
            "nodes_modes",
            "nodes_values",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "target_treeids",
            "target_nodeids",
            "target_weights",
        )
    }
    for index, (estimator, features) in enumerate(zip(forest.estimators_, forest.estimators_features_, strict=True)):
        _add_tree(columns, index, estimator.tree_, np.asarray(features))
    leaves = len(columns["target_nodeids"])
    return columns | {
        "target_ids": [0] * leaves,
        "nodes_hitrates": [1.0] * len(columns["nodes_nodeids"]),
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
    }


def _add_tree(columns: dict[str, list[Any]], index: int, tree: Any, features: NDArray[np.int64]) -> None:
    left, right = tree.children_left, tree.children_right
    leaf = left < 0
    count = len(left)
    columns["nodes_treeids"] += [index] * count
    columns["nodes_nodeids"] += range(count)
    columns["nodes_featureids"] += [int(i) for i in np.where(leaf, 0, features[np.maximum(tree.feature, 0)])]
    columns["nodes_modes"] += ["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf]
    columns["nodes_values"] += [float(value) for value in np.where(leaf, 0, floor32(tree.threshold))]
    columns["nodes_truenodeids"] += [int(i) for i in np.maximum(left, 0)]
    columns["nodes_falsenodeids"] += [int(i) for i in np.maximum(right, 0)]
    depths = np.zeros(count)
    for node in range(count):
        if not leaf[node]:
            depths[left[node]] = depths[right[node]] = depths[node] + 1
    weights = depths + _average_path(tree.n_node_samples)
    for place in np.flatnonzero(leaf):
        node = int(place)
        columns["target_treeids"].append(index)
        columns["target_nodeids"].append(node)
        columns["target_weights"].append(float(weights[node]))


def _average_path(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the expected depth of a tree grown on each number of samples (equation 1)."""
    n = samples.astype(np.float64)
    safe = np.maximum(n, 3.0)
    long = 2.0 * (np.log(safe - 1.0) + _EULER_GAMMA) - 2.0 * (safe - 1.0) / safe
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, long))


def floor32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns the largest float32 not above each value, so that `x <= value` is the same for every float32 x."""
    near = values.astype(np.float32)
    return np.where(near.astype(np.float64) > values, np.nextafter(near, np.float32(-np.inf)), near)

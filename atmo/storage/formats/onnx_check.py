"""Looks through an ONNX file without loading it: is it whole, does it stand alone, does it use known operators?

A model from another machine must not make the runtime open other files (external data), nor be offered to the mesh when
it needs operators that nobody here has. Subgraphs, functions and sparse tensors are looked through too.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers.
"""

from __future__ import annotations

import re

from atmo.storage.formats.protobuf import BYTES, Field, Walk
from atmo.storage.formats.reader import FormatError

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator sets in every build of onnxruntime. Source: onnxruntime `graph/constants.h`."""

DEPTH_MOST = 24
"""Nesting of subgraphs. Source: guess; exporters stay below five."""

IR_VERSION, GRAPH, OPSET, _FUNCTION = 1, 7, 8, 25
MODEL_FIELDS = frozenset([1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26])
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_MESSAGES = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_ATTRIBUTE = 1, 7, 10, 11

_SCALARS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f]|\x4a\x0aBRANCH_LEQ|\x4a\x04LEAF)++", re.DOTALL)
"""Runs of unpacked floats, integers and the two commonest strings of an attribute: tree ensembles hold millions."""


def check_onnx(walk: Walk) -> None:
    """Checks that a file is a whole ONNX model in one file that onnxruntime's own operators can run.

    Raises:
        FormatError: It is not.
    """
    look = _Look(walk)
    seen = set()
    for field in walk.fields(0, walk.size):
        seen.add(field.number)
        if field.kind == BYTES and field.number == GRAPH:
            look.graph(field, 1)
        elif field.kind == BYTES and field.number == _FUNCTION:
            look.function(field)
    if IR_VERSION not in seen or not seen <= MODEL_FIELDS:
        raise FormatError("is not an ONNX model")
    if not {GRAPH, OPSET} <= seen:
        raise FormatError("is cut short: an ONNX model has a graph and the versions of its operators")
    unknown = sorted(pair for pair in look.operators - look.functions if pair[0] not in KNOWN_DOMAINS)
    if unknown:
        domain, operator = unknown[0]
        raise FormatError(
            f"uses the custom operator {domain[:60]}::{operator[:60]}, which onnxruntime does not have",
            "Export it with standard operators only.",
        )


class _Look:
    """What one look has found.

    Args:
        walk: Over the file.

    Attributes:
        operators: (domain, name) of every operator in use.
        functions: The same of those that the model defines itself.
    """

    def __init__(self, walk: Walk) -> None:
        self.operators: set[tuple[str, str]] = set()
        self.functions: set[tuple[str, str]] = set()
        self._walk = walk

    def graph(self, graph: Field, depth: int) -> None:
        if depth > DEPTH_MOST:
            raise FormatError(f"has graphs nested more than {DEPTH_MOST} deep", "Export it with fewer subgraphs.")
        for field in self._walk.inside(graph):
            if field.kind != BYTES:
                continue
            if field.number == _GRAPH_NODE:
                self._node(field, depth)
            elif field.number == _GRAPH_INITIALIZER:
                self._tensor(field)
            elif field.number == _GRAPH_SPARSE:
                self._sparse(field)

    def function(self, function: Field) -> None:
        name = domain = ""
        for field in self._walk.inside(function):
            if field.kind != BYTES:
                continue
            if field.number == _FUNCTION_NAME:
                name = self._walk.text(field)
            elif field.number == _FUNCTION_DOMAIN:
                domain = self._walk.text(field)
            elif field.number == _FUNCTION_NODE:
                self._node(field, 1)
            elif field.number == _FUNCTION_ATTRIBUTE:
                self._attribute(field, 1)
        self.functions.add((domain, name))

    def _node(self, node: Field, depth: int) -> None:
        operator = domain = ""
        for field in self._walk.inside(node):
            if field.kind != BYTES:
                continue
            if field.number == _NODE_OP:
                operator = self._walk.text(field)
            elif field.number == _NODE_DOMAIN:
                domain = self._walk.text(field)
            elif field.number == _NODE_ATTRIBUTE:
                self._attribute(field, depth)
        self.operators.add((domain, operator))

    def _attribute(self, attribute: Field, depth: int) -> None:
        for field in self._walk.fields(attribute.start, attribute.end, skip=_SCALARS):
            what = _ATTRIBUTE_MESSAGES.get(field.number) if field.kind == BYTES else None
            if what == "tensor":
                self._tensor(field)
            elif what == "sparse":
                self._sparse(field)
            elif what == "graph":
                self.graph(field, depth + 1)

    def _sparse(self, sparse: Field) -> None:
        for field in self._walk.inside(sparse):
            if field.kind == BYTES and field.number in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._tensor(field)

    def _tensor(self, tensor: Field) -> None:
        for field in self._walk.inside(tensor):
            if (field.number == _TENSOR_EXTERNAL and field.kind == BYTES) or (
                field.number == _TENSOR_LOCATION and self._walk.number(field)
            ):
                raise FormatError(
                    "keeps weights in other files beside it", "Save it with all weights inside (onnx.save does)."
                )

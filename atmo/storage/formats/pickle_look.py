"""What a pickle would build, found out without building it: its instructions are read, and nothing they name is called.

Each instruction makes a value of ours in place of the real one: a `Global` for a name, a `Made` for whatever calling it
would have given. joblib writes the bytes of arrays between the instructions; they are skipped, small ones decoded.
A pickle is hostile input: how many instructions are read and how much is kept is bounded, and whatever is unclear ends
the look.

Source: `pickletools` of the standard library for the instructions; joblib/numpy_pickle.py, `NumpyArrayWrapper`.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from atmo.storage.formats.pickle_values import (
    TEXT_MOST_BYTES,
    Global,
    Made,
    Unclear,
    as_dict,
    count_of,
    decoded,
    global_of,
    kind_of,
    line_float,
    line_number,
    long_of,
    string_of,
    text_of,
    values_of,
)

STEPS_MOST = 500_000
"""Instructions that one look reads: a forest of a thousand trees has some 200,000. Source: guess."""

KEPT_MOST_BYTES = 16 * 1024 * 1024
_DEPTH_MOST = 4
_LINE_MOST_BYTES = 4 * 1024
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MARK = object()


class _Budget:
    """What all nested looks may cost together."""

    def __init__(self) -> None:
        self.steps = STEPS_MOST
        self.kept = KEPT_MOST_BYTES


def look(stream: BinaryIO) -> Any:
    """Returns what the pickle at the stream's position would build, in our own values.

    Raises:
        Unclear: It cannot be said.
    """
    return _Machine(stream, _Budget(), 0).run()


class _Machine:
    """Reads the instructions of one pickle."""

    def __init__(self, stream: BinaryIO, budget: _Budget, depth: int) -> None:
        if depth > _DEPTH_MOST:
            raise Unclear("pickles are nested too deep")
        self._stream = stream
        self._budget = budget
        self._depth = depth
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            self._budget.steps -= 1
            if self._budget.steps < 0:
                raise Unclear("it has too many instructions")
            code = self._read(1)
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise Unclear("it is damaged")
            argument = None if opcode.arg is None else self._argument(opcode.arg)
            if opcode.name == "STOP":
                return self._pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Unclear(f"it uses {opcode.name}")
            action(self, argument)

    # --- reading --------------------------------------------------------------------------------------------------

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise Unclear("it is cut short")
        return data

    def _line(self) -> bytes:
        line = self._stream.readline(_LINE_MOST_BYTES)
        if not line.endswith(b"\n"):
            raise Unclear("it is cut short")
        return line[:-1]

    def _argument(self, kind: Any) -> Any:
        """Returns the argument of an instruction: bytes, or None where they are too many to keep."""
        if kind.n >= 0:
            return self._read(kind.n)
        if kind.n == pickletools.UP_TO_NEWLINE:
            return (self._line(), self._line()) if kind.name.endswith("_pair") else self._line()
        code = _LENGTHS[kind.n]
        (size,) = struct.unpack(code, self._read(struct.calcsize(code)))
        if size < 0:
            raise Unclear("it is damaged")
        if size > TEXT_MOST_BYTES:
            if size >= 2**48:
                raise Unclear("it is damaged")
            self._stream.seek(size, 1)
            return None
        self._budget.kept -= size
        if self._budget.kept < 0:
            raise Unclear("it has too much text")
        return self._read(size)

    # --- the stack ------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise Unclear("it is damaged")
        return self._stack.pop()

    def top(self) -> Any:
        if not self._stack:
            raise Unclear("it is damaged")
        return self._stack[-1]

    def since_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise Unclear("it is damaged")

    # --- instructions ---------------------------------------------------------------------------------------------

    def pop(self, _: Any) -> None:
        self._pop()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def small_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)

    def set_item(self, _: Any) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def set_items(self, _: Any) -> None:
        self._update(self.since_mark())

    def _update(self, pairs: list[Any]) -> None:
        target = self.top()
        if isinstance(target, dict):
            target.update(as_dict(pairs))

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self.push(Global(text_of(module), text_of(name)))

    def instance(self, argument: Any) -> None:
        self.push(Made(global_of(argument), tuple(self.since_mark())))

    def object(self, _: Any) -> None:
        values = self.since_mark()
        if not values:
            raise Unclear("it is damaged")
        self.push(Made(values[0], tuple(values[1:])))

    def reduce(self, _: Any) -> None:
        arguments = self._pop()
        self.push(Made(self._pop(), arguments))

    def new_object_ex(self, _: Any) -> None:
        self._pop()
        self.reduce(None)

    def build(self, _: Any) -> None:
        state, target = self._pop(), self.top()
        if isinstance(target, Made):
            target.state = state
            if target.is_of("NumpyArrayWrapper"):
                target.values = self._array(state)

    def persistent(self, _: Any) -> None:
        self.push(Made(None, self._pop()))

    def put(self, index: int) -> None:
        self._memo[index] = self.top()

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise Unclear("it is damaged")
        self.push(self._memo[index])

    # --- arrays of joblib -----------------------------------------------------------------------------------------

    def _array(self, state: Any) -> Any:
        """Skips the bytes of an array that joblib wrote here; returns the values of a small one."""
        if not isinstance(state, dict):
            raise Unclear("it is damaged")
        kind = kind_of(state.get("dtype"))
        count = count_of(state.get("shape"))
        if kind is None or count is None:
            raise Unclear("it holds arrays of an unknown kind")
        order, letter, size = kind
        if letter == "O":
            return values_of(_Machine(self._stream, self._budget, self._depth + 1).run())
        if state.get("numpy_array_alignment_bytes") is not None:
            self._stream.seek(self._read(1)[0], 1)
        if count * size >= 2**48:
            raise Unclear("it is damaged")
        if count * size > TEXT_MOST_BYTES:
            self._stream.seek(count * size, 1)
            return None
        return decoded(self._read(count * size), order, letter, size)


_Action = Callable[[_Machine, Any], None]


def _pushing(read: Callable[[Any], Any]) -> _Action:
    return lambda machine, argument: machine.push(read(argument))


def _nothing(machine: _Machine, argument: Any) -> None:
    """Does nothing: the instruction only helps whoever reads from a network."""


def _number(code: str) -> Callable[[bytes], Any]:
    return lambda argument: struct.unpack(code, argument)[0]


_ACTIONS: dict[str, _Action] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _pushing(lambda _: _MARK),
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.push(machine.top()),
    "NONE": _pushing(lambda _: None),
    "NEWTRUE": _pushing(lambda _: True),
    "NEWFALSE": _pushing(lambda _: False),
    "INT": _pushing(line_number),
    "LONG": _pushing(line_number),
    "BININT": _pushing(_number("<i")),
    "BININT1": _pushing(_number("<B")),
    "BININT2": _pushing(_number("<H")),
    "LONG1": _pushing(long_of),
    "LONG4": _pushing(long_of),
    "FLOAT": _pushing(line_float),
    "BINFLOAT": _pushing(_number(">d")),
    "STRING": _pushing(lambda line: string_of(line[1:-1])),
    "UNICODE": _pushing(string_of),
    **{name: _pushing(string_of) for name in ("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE")},
    "BINUNICODE8": _pushing(string_of),
    **{name: _pushing(lambda data: data) for name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")},
    "EMPTY_TUPLE": _pushing(lambda _: ()),
    "TUPLE1": lambda machine, _: machine.small_tuple(1),
    "TUPLE2": lambda machine, _: machine.small_tuple(2),
    "TUPLE3": lambda machine, _: machine.small_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": _pushing(lambda _: []),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "EMPTY_SET": _pushing(lambda _: []),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "ADDITEMS": _Machine.appends,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "EMPTY_DICT": _pushing(lambda _: {}),
    "DICT": lambda machine, _: machine.push(as_dict(machine.since_mark())),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _pushing(global_of),
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instance,
    "OBJ": _Machine.object,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_object_ex,
    "BUILD": _Machine.build,
    "PERSID": _pushing(lambda line: Made(None, string_of(line))),
    "BINPERSID": _Machine.persistent,
    "PUT": lambda machine, line: machine.put(line_number(line)),
    "BINPUT": lambda machine, data: machine.put(data[0]),
    "LONG_BINPUT": lambda machine, data: machine.put(_number("<I")(data)),
    "MEMOIZE": _Machine.memoize,
    "GET": lambda machine, line: machine.get(line_number(line)),
    "BINGET": lambda machine, data: machine.get(data[0]),
    "LONG_BINGET": lambda machine, data: machine.get(_number("<I")(data)),
}

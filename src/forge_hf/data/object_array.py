# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
What numpy pickles for an array of objects, read without unpickling.

A pickle is a program that calls whatever it names. This reader knows the few instructions that numpy, `dict`, `int`
and `str` need, and the names of the four functions that numpy rebuilds arrays and scalars with. It never looks a name
up: those four are done here, by hand, for object arrays and for scalars that are integers or text. All else is
refused, so that no file can run code, and none can hand numpy raw memory to take for objects.
"""

import struct
from typing import Any

import numpy as np

from ..errors import CorruptFileError


__all__ = ["read_object_array"]

_ARRAY, _DTYPE, _NEW_ARRAY, _NEW_SCALAR = "ndarray", "dtype", "_reconstruct", "scalar"
_NAMES = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _NEW_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _NEW_ARRAY,
    ("numpy.core.multiarray", "scalar"): _NEW_SCALAR,
    ("numpy._core.multiarray", "scalar"): _NEW_SCALAR,
}
_MAX_INT_BYTES = 8


class _Function:
    """One of numpy's rebuilders, by name. Not a string, which a pickle could write."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class _DType:
    __slots__ = ("kind", "size", "order")

    def __init__(self, kind: str, size: int):
        self.kind, self.size, self.order = kind, size, "<"


class _Array:
    __slots__ = ("shape", "items")

    def __init__(self):
        self.shape = self.items = None


def read_object_array(data: bytes) -> np.ndarray:
    """
    The array of an `.npy` member of dtype `object`, from the bytes after its header.

    Args:
        data (`bytes`):
            A pickle of protocol 3 to 5, as `numpy.save` and `numpy.savez` write it since numpy 1.17, of an object
            array of at most two dimensions.

    Returns:
        `np.ndarray` of dtype `object`, whose elements are `str`, `int` or `dict`s of them.

    Raises:
        [`CorruptFileError`]: if the pickle is truncated, or holds anything else.
    """
    try:
        array = _Reader(data).run()
        if not isinstance(array, _Array) or array.items is None:
            raise _refused(f"a {type(array).__name__} in place of an array")
        items = array.items
        for kind in set(map(type, items)):
            if kind not in (str, int, dict):
                raise _refused(f"a {kind.__name__} as an element of an array")
        result = np.empty(len(items), dtype=object)
        result[:] = items
        return result.reshape(array.shape)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"The pickled array is damaged: {type(error).__name__}: {error}.") from error


def _refused(what: str) -> CorruptFileError:
    return CorruptFileError(
        f"The pickled array holds {what}, and only dictionaries, texts and integers are read, as FORGE writes them. A "
        "pickle can run code where it is loaded: don't load this one by other means unless you trust it."
    )


class _Reader:
    def __init__(self, data: bytes):
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        # One loop and local names: there may be tens of millions of instructions.
        data, stack, memo, marks = self.data, self.stack, self.memo, self.marks
        push, end, at = stack.append, len(data), 0
        while True:
            code = data[at]
            at += 1
            if code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif code == 0x8C:  # SHORT_BINUNICODE
                stop = at + 1 + data[at]
                if stop > end:
                    raise IndexError("it ends within a text")
                push(str(data[at + 1 : stop], "utf-8"))
                at = stop
            elif code == 0x4A:  # BININT
                push(int.from_bytes(data[at : at + 4], "little", signed=True))
                at += 4
            elif code == 0x4D:  # BININT2
                push(data[at] | data[at + 1] << 8)
                at += 2
            elif code == 0x4B:  # BININT1
                push(data[at])
                at += 1
            elif code == 0x68:  # BINGET
                push(memo[data[at]])
                at += 1
            elif code == 0x6A:  # LONG_BINGET
                push(memo[int.from_bytes(data[at : at + 4], "little")])
                at += 4
            elif code == 0x86:  # TUPLE2
                stack[-2:] = [tuple(stack[-2:])]
            elif code == 0x52:  # REDUCE
                arguments = stack.pop()
                stack[-1] = _call(stack[-1], arguments)
            elif code == 0x58 or code == 0x42:  # BINUNICODE, BINBYTES
                stop = at + 4 + int.from_bytes(data[at : at + 4], "little")
                if stop > end:
                    raise IndexError("it ends within a text")
                push(str(data[at + 4 : stop], "utf-8") if code == 0x58 else data[at + 4 : stop])
                at = stop
            elif code == 0x43:  # SHORT_BINBYTES
                stop = at + 1 + data[at]
                push(data[at + 1 : stop])
                at = stop
            elif code == 0x8A:  # LONG1
                stop = at + 1 + data[at]
                if data[at] > _MAX_INT_BYTES:
                    raise _refused("an integer of more than 64 bits")
                push(int.from_bytes(data[at + 1 : stop], "little", signed=True))
                at = stop
            elif code == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif code == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[at : at + 4], "little")] = stack[-1]
                at += 4
            elif code == 0x28:  # MARK
                marks.append(len(stack))
            elif code == 0x75:  # SETITEMS
                _set_items(stack, marks.pop())
            elif code == 0x73:  # SETITEM
                _set_items(stack, len(stack) - 2)
            elif code == 0x65 or code == 0x61:  # APPENDS, APPEND
                start = marks.pop() if code == 0x65 else len(stack) - 1
                if start < 1 or type(stack[start - 1]) is not list:
                    raise _refused("an append to something other than a list")
                stack[start - 1].extend(stack[start:])
                del stack[start:]
            elif code == 0x7D:  # EMPTY_DICT
                push({})
            elif code == 0x5D:  # EMPTY_LIST
                push([])
            elif code == 0x29:  # EMPTY_TUPLE
                push(())
            elif code == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
            elif code == 0x87:  # TUPLE3
                stack[-3:] = [tuple(stack[-3:])]
            elif code == 0x74:  # TUPLE
                start = marks.pop()
                stack[start:] = [tuple(stack[start:])]
            elif code == 0x4E:  # NONE
                push(None)
            elif code == 0x88 or code == 0x89:  # NEWTRUE, NEWFALSE
                push(code == 0x88)
            elif code == 0x63:  # GLOBAL
                middle = data.index(b"\n", at)
                stop = data.index(b"\n", middle + 1)
                push(_function(data[at:middle].decode(), data[middle + 1 : stop].decode()))
                at = stop + 1
            elif code == 0x93:  # STACK_GLOBAL
                name = stack.pop()
                stack[-1] = _function(stack[-1], name)
            elif code == 0x62:  # BUILD
                state = stack.pop()
                _set_state(stack[-1], state)
            elif code == 0x80:  # PROTO
                if not 3 <= data[at] <= 5:
                    raise _refused(f"protocol {data[at]}")
                at += 1
            elif code == 0x95:  # FRAME
                at += 8
            elif code == 0x2E:  # STOP
                if len(stack) != 1 or marks:
                    raise _refused("more than one object")
                return stack[0]
            else:
                raise _refused(f"the instruction 0x{code:02x}")


def _function(module: Any, name: Any) -> _Function:
    if type(module) is not str or type(name) is not str or (module, name) not in _NAMES:
        shown = f"{module}.{name}" if type(module) is str and type(name) is str else "something"
        raise _refused(f"the name {shown[:80]!r}")
    return _Function(_NAMES[module, name])


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not _Function or type(arguments) is not tuple:
        raise _refused("a call of something other than numpy's rebuilders")
    if function.name == _NEW_ARRAY:
        # (ndarray, (0,), b"b"): an empty array, which `_set_state` fills.
        if len(arguments) != 3 or type(arguments[0]) is not _Function or arguments[0].name != _ARRAY:
            raise _refused("an array of another class than numpy's")
        return _Array()
    if function.name == _DTYPE and arguments and type(arguments[0]) is str:
        kind, size = arguments[0][:1], arguments[0][1:]
        if kind in ("O", "i", "u", "U") and size.isascii() and size.isdigit() and len(size) <= 6:
            return _DType(kind, int(size))
    if function.name == _NEW_SCALAR and [type(argument) for argument in arguments] == [_DType, bytes]:
        dtype, value = arguments
        width = 4 * dtype.size if dtype.kind == "U" else dtype.size
        if dtype.kind != "O" and len(value) == width and (dtype.kind == "U" or width <= _MAX_INT_BYTES):
            order = "little" if dtype.order == "<" else "big"
            if dtype.kind == "U":
                return value.decode("utf-32-le" if order == "little" else "utf-32-be").rstrip("\0")
            return int.from_bytes(value, order, signed=dtype.kind == "i")
    raise _refused(f"a call of numpy's {function.name} for something other than objects, integers or text")


def _set_state(target: Any, state: Any) -> None:
    if type(target) is _DType and type(state) is tuple and len(state) >= 5:
        # (version, byte order, subdtype, names, fields, ...)
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _refused("an array of structures")
        target.order = ">" if state[1] == ">" else "<"
    elif type(target) is _Array and type(state) is tuple and len(state) == 5 and target.items is None:
        # (version, shape, dtype, whether in Fortran's order, elements)
        _, shape, dtype, fortran, items = state
        if type(dtype) is not _DType or dtype.kind != "O" or type(items) is not list:
            raise _refused("an array of something other than objects")
        if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 2:
            raise _refused("an array of a strange shape")
        if fortran is not False and len(shape) > 1:
            raise _refused("an array in Fortran's order")
        num_items = 1
        for size in shape:
            num_items *= size
        if num_items != len(items):
            raise _refused(f"{len(items)} elements for the shape {shape}")
        target.shape, target.items = shape, items
    else:
        raise _refused("a state for something other than numpy's arrays")


def _set_items(stack: list, start: int) -> None:
    if start < 1 or type(stack[start - 1]) is not dict or (len(stack) - start) % 2:
        raise _refused("an entry in something other than a dictionary")
    keys, values = stack[start::2], stack[start + 1 :: 2]
    if not set(map(type, keys)) <= {str, int} or not set(map(type, values)) <= {str, int}:
        raise _refused("a dictionary of something other than texts and integers")
    stack[start - 1].update(zip(keys, values, strict=True))
    del stack[start:]

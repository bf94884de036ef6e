"""Custom nodes of .tflite files without a compiler: a delegate written in Python.

It is for proving files, not for speed: a node costs tens of microseconds. The runtime sees the
same records as from the compiled delegate (``src/tflite.cpp``); both runtimes accept any object
that gives the address of such a record.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
OK, ERROR = 0, 1
FLOAT32 = 1
READ_ONLY = 1  # memory mapped from the file: a constant
CUSTOM = 32
ALLOW_DYNAMIC_TENSORS = 1  # else the runtime prepares the nodes before the delegate sees them


class Ints(Structure):
    """A length and as many integers behind it."""

    _fields_: ClassVar = [("size", c_int), ("first", c_int)]


class Tensor(Structure):
    """A tensor; the fields behind ``bytes`` only give it its size."""

    _fields_: ClassVar = [
        ("type", c_int),
        ("data", c_void_p),
        ("dims", POINTER(Ints)),
        ("affine", c_int32 * 2),
        ("allocation", c_int),
        ("bytes", c_size_t),
        ("source", c_void_p),
        ("name", c_char_p),
        ("delegate", c_void_p),
        ("buffer", c_int),
        ("flags", ctypes.c_bool * 2),
        ("quantization", c_int),
        ("parameters", c_void_p),
        ("sparsity", c_void_p),
        ("signature", c_void_p),
    ]


class Node(Structure):
    """The leading fields of a node."""

    _fields_: ClassVar = [
        ("inputs", POINTER(Ints)),
        ("outputs", POINTER(Ints)),
        ("intermediates", c_void_p),
        ("temporaries", c_void_p),
        ("user_data", c_void_p),
    ]


INIT = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_size_t)
FREE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
STEP = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(Node))


class Registration(Structure):
    """A kernel; passed by value, so it is as large as the newest runtime's."""

    _fields_: ClassVar = [
        ("init", INIT),
        ("free", FREE),
        ("prepare", STEP),
        ("invoke", STEP),
        ("profile", c_void_p),
        ("builtin_code", c_int32),
        ("name", c_char_p),
        ("version", c_int),
        ("later", c_void_p * 7),
    ]


class Context(Structure):
    """The leading fields of an interpreter's context."""

    _fields_: ClassVar = [
        ("tensors_size", c_size_t),
        ("plan", ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(POINTER(Ints)))),
        ("tensors", POINTER(Tensor)),
        ("implementation", c_void_p),
        ("resize", ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)),
        ("report", c_void_p),
        ("add_tensors", c_void_p),
        (
            "node",
            ctypes.CFUNCTYPE(
                c_int, c_void_p, c_int, POINTER(POINTER(Node)), POINTER(POINTER(Registration))
            ),
        ),
        (
            "replace",
            ctypes.CFUNCTYPE(c_int, c_void_p, Registration, POINTER(Ints), c_void_p),
        ),
    ]


CLAIM = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)


class Delegate(Structure):
    """What a runtime is handed."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        ("prepare", CLAIM),
        ("copies", c_void_p * 3),
        ("flags", c_int64),
        ("later", c_void_p * 5),
    ]


class ReferenceDelegate:
    """Runs KronLinear and LowRankLinear with numpy; keep it as long as the interpreter."""

    def __init__(self) -> None:
        self._calls = 0
        self._layers: dict[int, tuple[Callable[[Array], Array], int, int]] = {}
        self._memory = ctypes.CDLL(None)
        self._memory.malloc.restype = c_void_p
        self._memory.malloc.argtypes = [c_size_t]
        self._kernel = Registration(
            init=INIT(_guarded(self._init, 0)),
            free=FREE(self._free),
            prepare=STEP(_guarded(self._prepare, ERROR)),
            invoke=STEP(_guarded(self._invoke, ERROR)),
            name=b"sepdeploy reference",
            version=1,
        )
        claim = CLAIM(_guarded(self._claim, ERROR))
        self._record = Delegate(prepare=claim, flags=ALLOW_DYNAMIC_TENSORS)

    def _get_native_delegate_pointer(self) -> int:
        """Return the record's address; the runtimes ask for it by this name."""
        return ctypes.addressof(self._record)

    def calls(self) -> int:
        """How often a layer ran."""
        return self._calls

    def _claim(self, address: int, delegate: int) -> int:
        """Take over every node that is ours and well formed."""
        context = Context.from_address(address)
        plan = POINTER(Ints)()
        if context.plan(address, byref(plan)) != OK:
            return ERROR
        for index in ints(plan):
            found = self._node(context, address, index)
            if found is None:
                return ERROR
            if found[1].builtin_code == CUSTOM and layer_of(context, *found) is not None:
                one = Ints(1, index)
                if context.replace(address, self._kernel, byref(one), delegate) != OK:
                    return ERROR
        return OK

    def _node(self, context: Context, address: int, index: int) -> tuple[Node, Registration] | None:
        node, op = POINTER(Node)(), POINTER(Registration)()
        if context.node(address, index, byref(node), byref(op)) != OK:
            return None
        return node.contents, op.contents

    def _init(self, address: int, parameters: int, _: int) -> int:
        """Make the layer of one node; its handle is never 0, which means failure."""
        nodes = ctypes.cast(parameters, POINTER(c_void_p))[1]
        index = ints(ctypes.cast(nodes or 0, POINTER(Ints)))[0]
        context = Context.from_address(address)
        found = self._node(context, address, index)
        layer = None if found is None else layer_of(context, *found)
        if found is None or layer is None:
            return 0
        handle = len(self._layers) + 1
        self._layers[handle] = (layer, ints(found[0].inputs)[0], ints(found[0].outputs)[0])
        return handle

    def _free(self, _: int, handle: int) -> None:
        self._layers.pop(handle, None)

    def _prepare(self, address: int, node: Any) -> int:
        context = Context.from_address(address)
        known = self._layers.get(node.contents.user_data or 0)
        if known is None:
            return ERROR
        layer, source, target = known
        dims = ints(context.tensors[source].dims)
        try:
            units = layer(np.zeros((1, dims[-1]), np.float32)).shape[1]
        except ValueError:  # another number of features
            return ERROR
        dims[-1] = units
        memory = self._memory.malloc(ctypes.sizeof(c_int) * (1 + len(dims)))
        if not memory:
            return ERROR
        (c_int * (1 + len(dims))).from_address(memory)[:] = [len(dims), *dims]
        return int(context.resize(address, byref(context.tensors[target]), memory))

    def _invoke(self, address: int, node: Any) -> int:
        context = Context.from_address(address)
        layer, source, target = self._layers[node.contents.user_data]
        x, y = values(context.tensors[source]), values(context.tensors[target])
        if x is None or y is None:
            return ERROR
        result = layer(x.reshape(-1, x.shape[-1]))
        if result.size != y.size:
            return ERROR
        self._calls += 1
        y[...] = result.reshape(y.shape)
        return OK


def _guarded(function: Callable[..., int], failed: int) -> Callable[..., int]:
    """Answer ``failed`` in place of any exception: ctypes would drop it and answer 0."""

    def run(*arguments: Any) -> int:
        try:
            return function(*arguments)
        except Exception:  # whatever it is, the runtime must hear of it
            return failed

    return run


def ints(pointer: Any) -> list[int]:
    """Return the integers of a list."""
    if not pointer:
        return []
    size = pointer.contents.size
    start = ctypes.addressof(pointer.contents) + Ints.first.offset
    return list((c_int * size).from_address(start))


def values(tensor: Tensor) -> Array | None:
    """Return a tensor's memory, None where it is not float32 or has none."""
    dims = ints(tensor.dims)
    count = int(np.prod(dims, dtype=np.int64))
    fits = tensor.type == FLOAT32 and tensor.data and tensor.bytes == 4 * count
    if not fits or not dims or min(dims) < 1:
        return None
    memory = (ctypes.c_float * count).from_address(tensor.data)
    found: Array = np.ctypeslib.as_array(memory).reshape(dims)
    return found


def layer_of(context: Context, node: Node, op: Registration) -> Callable[[Array], Array] | None:
    """Return what a node computes on rows (M, n_in), None where it is not ours or malformed."""
    inputs = ints(node.inputs)
    if op.name not in (b"KronLinear", b"LowRankLinear") or len(inputs) < 4 or min(inputs) < 0:
        return None
    tensors = [context.tensors[i] for i in inputs[1:]]
    weights = [values(t) for t in tensors if t.allocation == READ_ONLY]
    known = [w.copy() for w in weights if w is not None]
    if len(known) != len(tensors) or context.tensors[inputs[0]].type != FLOAT32:
        return None
    *factors, bias = known
    if op.name == b"LowRankLinear":
        return _lowrank(factors, bias)
    return _kron(factors, bias)


def _lowrank(factors: list[Array], bias: Array) -> Callable[[Array], Array] | None:
    u, v = factors if len(factors) == 2 else (bias, bias)
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1] or bias.shape != (len(v),):
        return None
    return lambda x: (x @ u) @ v.T + bias


def _kron(factors: list[Array], bias: Array) -> Callable[[Array], Array] | None:
    if any(f.ndim != 3 or len(f) != len(factors[0]) for f in factors):
        return None
    if bias.shape != (int(np.prod([f.shape[1] for f in factors])),):
        return None
    in_shape = [f.shape[2] for f in factors]

    def run(x: Array) -> Array:
        total = np.broadcast_to(bias, (len(x), len(bias))).copy()
        for term in zip(*factors, strict=True):
            part = x.reshape(len(x), *in_shape)
            for mode, factor in enumerate(term):
                part = np.moveaxis(np.tensordot(part, factor, (mode + 1, 1)), -1, mode + 1)
            total += part.reshape(len(x), -1)
        return total

    return run

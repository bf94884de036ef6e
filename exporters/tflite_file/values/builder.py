"""Emits TFLite operators while keeping track of names, constants and memory order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import (
    BATCH,
    Array,
    Graph,
    Op,
    Shape,
    Tensor,
    bounded,
    is_batch,
    runtime_shape,
)
from sepdeploy.exporters.tflite_file.format.limits import MAX_PLAIN_RANK, check_limits
from sepdeploy.exporters.tflite_file.format.types import computed_in, computes
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value
from sepdeploy.exporters.tflite_file.values.transposition import transposition

FLOAT = np.dtype(np.float32)


class Builder:
    """The graph under construction. ``scope`` is the layer whose operators are being emitted."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.scope = ""
        self.settled: dict[int, tuple[object, Value]] = {}
        self._names: dict[str, int] = {}
        self._kinds: dict[int, str] = {}
        self._pool: dict[tuple[Any, ...], Tensor] = {}
        self._shared: dict[tuple[Any, ...], Tensor] | None = None
        self._made: dict[tuple[Any, ...], Tensor] = {}

    @contextmanager
    def layer(self, name: str) -> Iterator[None]:
        """Name what is emitted inside after a layer."""
        before, self.scope = self.scope, name
        try:
            yield
        finally:
            self.scope = before

    def unique(self, role: str) -> str:
        """Return ``<layer>/<role>``, numbered where it is taken."""
        name = f"{self.scope}/{role}" if self.scope else role
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else self.unique(f"{role}_{count}")

    def constant(self, data: Array, role: str) -> Tensor:
        """Return a constant tensor."""
        array = np.asarray(data)
        if self._shared is None:
            return Tensor(self.unique(role), array.shape, array.dtype, array)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = Tensor(self.unique(role), array.shape, array.dtype, array)
        return self._shared[key]

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Make equal constants one tensor inside: those of a layer that is applied many times."""
        self._shared = self._pool
        try:
            yield
        finally:
            self._shared = None

    def ints(self, values: Sequence[int] | Sequence[Sequence[int]] | Array, role: str) -> Tensor:
        """Return an int32 constant tensor."""
        return self.constant(np.asarray(values, np.int32), role)

    def op(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shape: Sequence[int],
        *,
        dtype: Any = None,
        **options: Any,
    ) -> Tensor:
        """Emit an operator with one output and return the output."""
        return self.multi(kind, inputs, [shape], dtype=dtype, **options)[0]

    def multi(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        *,
        dtype: Any = None,
        **options: Any,
    ) -> list[Tensor]:
        """Emit an operator and return its outputs."""
        check_limits(self.scope, kind, inputs, shapes, options)
        own = (inputs[1] if kind == "SPLIT" else inputs[0]).dtype
        wide = computed_in(kind, own, self.scope)
        if wide != own:
            inputs = [self.cast(t, wide) if t.dtype == own else t for t in inputs]
            found = self.multi(kind, inputs, shapes, dtype=dtype, **options)
            return [self.cast(t, own) for t in found] if dtype is None else found
        out_type = np.dtype(dtype) if dtype is not None else own
        outputs = [Tensor(self.unique(kind.lower()), tuple(s), out_type) for s in shapes]
        self.graph.ops.append(Op(kind, list(inputs), outputs, options))
        self._kinds.update((id(t), kind) for t in outputs)
        return outputs

    def custom(
        self, name: str, inputs: Sequence[Tensor], shape: Sequence[int], options: bytes
    ) -> Tensor:
        """Emit a CUSTOM operator with one float output."""
        output = Tensor(self.unique(name.lower()), tuple(shape), FLOAT)
        op = Op("CUSTOM", list(inputs), [output], custom_name=name, custom_options=options)
        self.graph.ops.append(op)
        return output

    def producer(self, tensor: Tensor) -> str:
        """Return the kind of the operator that computes a tensor, "" for an input."""
        return self._kinds.get(id(tensor), "")

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a tensor's memory under another shape (RESHAPE where that differs).

        Raises:
            BadInput: Two dimensions would depend on the batch.
        """
        wanted = tuple(shape)
        if tensor.shape == wanted:
            return tensor
        key = ("reshape", id(tensor), wanted)
        if key not in self._made:
            dims = runtime_shape(wanted, self.scope)
            self._made[key] = self.op(
                "RESHAPE",
                [tensor, self.ints(dims, "shape")],
                wanted,
                new_shape=tuple(int(d) for d in dims),
            )
        return self._made[key]

    def transpose(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """Emit TRANSPOSE: output dimension ``i`` is input dimension ``axes[i]``."""
        shape = [tensor.shape[a] for a in axes]
        return self.op("TRANSPOSE", [tensor, self.ints(axes, "perm")], shape)

    def cast(self, tensor: Tensor, dtype: Any) -> Tensor:
        """Return a tensor in another element type; a constant is converted at once."""
        kind = np.dtype(dtype)
        if tensor.dtype == kind:
            return tensor
        if tensor.data is not None:
            return self.constant(tensor.data.astype(kind), "constant")
        options = {"in_dtype": tensor.dtype.name, "out_dtype": kind.name}
        return self.op("CAST", [tensor], tensor.shape, dtype=kind, **options)

    def copy(self, tensor: Tensor) -> Tensor:
        """Emit a RESHAPE to the same shape: a tensor of its own with the same content."""
        dims = runtime_shape(tensor.shape, self.scope)
        options = {"new_shape": tuple(int(d) for d in dims)}
        return self.op("RESHAPE", [tensor, self.ints(dims, "shape")], tensor.shape, **options)

    def ordered(self, value: Value, order: Sequence[int]) -> Tensor:
        """Return a tensor whose memory order is ``order`` (atoms); its shape is left open."""
        return self._arranged(value, tuple(order), None)

    def arranged(self, value: Value, axes: Sequence[int]) -> Tensor:
        """Return a tensor whose dimension ``i`` is logical dimension ``axes[i]``."""
        groups = value.groups()
        order = tuple(atom for axis in axes for atom in groups[axis])
        return self._arranged(value, order, tuple(value.shape[a] for a in axes))

    def row_major(self, value: Value) -> Value:
        """Return a value whose tensor has the logical shape, in logical order."""
        tensor = self.arranged(value, range(len(value.shape)))
        return layout.plain(tensor)

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """Return a value with another logical shape, moving memory only if it must."""
        new = layout.reshape(value, shape)
        if new is None:
            new = layout.reshape(self.row_major(value), shape)
            assert new is not None, "row-major memory takes any shape"
        return new

    def exposed(self, value: Value, axis: int) -> tuple[Value, int, int]:
        """Give a logical dimension a place in the tensor's shape.

        Args:
            value: The value.
            axis: A logical dimension larger than 1.

        Returns:
            The value with that dimension as one atom; the tensor's dimension that it leads; and
            how many elements of that tensor dimension one step along it spans.
        """
        merged = layout.merge_axis(value, axis)
        if merged is None:
            merged = self.row_major(value)
        (atom,) = merged.groups()[axis]
        leads = [a == atom for a in range(len(merged.atoms))]
        dims = layout.tensor_dims(merged)
        if not any(dim and dim[0] == atom for dim in dims):
            dims = layout.split_dims(merged, [leads])
        if len(dims) > MAX_PLAIN_RANK:
            dims = layout.compact(merged, layout.split_dims(merged, [leads]), [leads])
        merged = merged.with_tensor(self.reshape(merged.tensor, layout.dims_shape(merged, dims)))
        place = next(i for i, dim in enumerate(dims) if dim and dim[0] == atom)
        return merged, place, merged.tensor.shape[place] // merged.shape[axis]

    def isolated(self, value: Value, axis: int) -> tuple[Value, int]:
        """As `exposed`, but with the dimension alone in its tensor dimension."""
        merged, place, inner = self.exposed(value, axis)
        if inner == 1:
            return merged, place
        shape = merged.tensor.shape
        split = (*shape[:place], shape[place] // inner, inner, *shape[place + 1 :])
        return merged.with_tensor(self.reshape(merged.tensor, split)), place

    def runtime(self, item: Value | Constant, role: str = "constant") -> Value:
        """Return a run-time value; constants become constant tensors.

        Raises:
            BadInput: The constant is repeated over the batch in a way that has no TFLite form.
        """
        if isinstance(item, Value):
            return item
        if any(is_batch(d) for d in item.shape):
            return self._once_per_sample(item, role)
        if item.repeated:
            item = Constant(np.broadcast_to(item.data, item.shape), item.shape)
        return layout.plain(self.constant(item.whole(self.scope), role))

    def _once_per_sample(self, item: Constant, role: str) -> Value:
        """Add a constant to zeros of the batch's size, which are made of an input."""
        rank = len(item.shape)
        data = item.data.reshape((1,) * (rank - item.data.ndim) + item.data.shape)
        wanted = tuple(BATCH if is_batch(d) else 1 for d in item.shape)
        source = next((t for t in self.graph.inputs.values() if t.shape[:1] == (BATCH,)), None)
        one = tuple(s if d == BATCH else d for s, d in zip(data.shape, item.shape, strict=True))
        many = [s for s, d in zip(data.shape, item.shape, strict=True) if is_batch(d)]
        if source is None or many != [1] or not all(d == BATCH for d in item.shape if is_batch(d)):
            item.whole(self.scope)  # says so
        assert source is not None, "refused above"
        bounded(math.prod(one), self.scope)
        data = np.broadcast_to(data, one)
        kind = data.dtype if computes("ADD", data.dtype) else np.dtype(np.int32)
        zeros = self.cast(self.reshape(self._zeros(source), wanted), kind)
        tensor = self.op("ADD", [zeros, self.constant(data.astype(kind), role)], item.shape)
        return layout.plain(self.cast(tensor, data.dtype))

    def _zeros(self, source: Tensor) -> Tensor:
        """Return one zero per sample: its first number, held between 0 and 0."""
        key = ("zeros", id(source))
        if key not in self._made:
            rank = len(source.shape)
            ones = self.ints([1] * rank, "strides")
            operands = [source, self.ints([0] * rank, "begin"), self.ints([1] * rank, "end"), ones]
            shape = (source.shape[0], *(1,) * (rank - 1))
            first = self.op("STRIDED_SLICE", operands, shape, begin_mask=1, end_mask=1)
            if source.dtype == bool:
                first = self.cast(first, np.int32)
            zero = self.constant(np.zeros(1, first.dtype), "zero")
            lower = self.op("MINIMUM", [first, zero], shape)
            self._made[key] = self.op("MAXIMUM", [lower, zero], shape)
        return self._made[key]

    def _arranged(self, value: Value, order: tuple[int, ...], shape: Shape | None) -> Tensor:
        if order == value.order:
            return value.tensor if shape is None else self.reshape(value.tensor, shape)
        key = ("order", id(value.tensor), value.atoms, value.order, order, shape)
        if key not in self._made:
            before, axes = transposition(value, order, shape)
            moved = self.transpose(self.reshape(value.tensor, before), axes)
            self._made[key] = moved if shape is None else self.reshape(moved, shape)
        return self._made[key]

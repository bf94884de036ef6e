"""Inputs and outputs of a TFLite file: their names, types and the order of their axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.contract import F32, Array
from sepdeploy.runtimes.runner.ports import UNNAMED, Port

TO_FILE, TO_CALLER = (0, 2, 3, 1), (0, 3, 1, 2)  # from N,C,H,W to N,H,W,C and back


def named_tensors(
    interpreter: Any, inputs: list[Any], outputs: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs by the names of the only signature, else by those of tensors."""
    names: dict[str, dict[int, str]] = {"inputs": {}, "outputs": {}}
    signatures = list(interpreter.get_signature_list())
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(signatures[0])
        for side, details in (
            ("inputs", runner.get_input_details()),
            ("outputs", runner.get_output_details()),
        ):
            names[side] = {int(tensor["index"]): name for name, tensor in details.items()}

    def by_name(side: str, tensors: list[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for tensor in tensors:
            name = names[side].get(int(tensor["index"])) or tensor["name"] or side[:-1]
            found[name if name not in found else f"{name}:{len(found)}"] = tensor
        return found

    return by_name("inputs", inputs), by_name("outputs", outputs)


def port_of(name: str, tensor: dict[str, Any]) -> Port:
    """Return what a tensor takes; a size that may change is open."""
    shape = [int(n) for n in tensor["shape"]]
    said = [int(n) for n in tensor.get("shape_signature", shape)]
    sizes = said if len(said) == len(shape) else shape
    kind = np.dtype(tensor["dtype"])
    return Port(
        name,
        kind.name if kind.kind in "fiub" else "",
        tuple(UNNAMED if n < 0 else n for n in sizes),
    )


def turned(array: Array, order: tuple[int, ...]) -> Array:
    """Return an array of rank 4 with its axes in another order, others as they are."""
    return np.ascontiguousarray(array.transpose(order)) if array.ndim == 4 else array


def as_own(array: Array, tensor: dict[str, Any]) -> Array:
    """Return an input in its tensor's type; real numbers for a quantised one are scaled.

    Raises:
        ValueError: Numbers that the type does not hold: beyond its limits, or not whole.
    """
    kind = np.dtype(tensor["dtype"])
    if kind == F32 and array.dtype == np.float64:
        finite = array[np.isfinite(array)]
        if finite.size and np.abs(finite).max() > np.finfo(F32).max:
            raise ValueError(f"input '{tensor['name']}' has numbers beyond float32")
    scale, zero = tensor["quantization"]
    if array.dtype.kind == "f" and kind.kind in "iu" and scale > 0:
        limits = np.iinfo(kind)
        array = np.clip(np.rint(array / scale) + zero, limits.min, limits.max)
    with np.errstate(invalid="ignore"):
        own = np.asarray(array, kind, order="C")  # unlike ascontiguousarray, keeps rank 0
    if kind.kind in "iub" and not np.array_equal(own, array):
        raise ValueError(f"input '{tensor['name']}' has numbers that {kind.name} does not hold")
    return own

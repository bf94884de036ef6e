"""Large constants kept beside their graph, so that graph work never copies the weights.

A protobuf copies a constant whenever a graph is copied, filtered or put in order, and gives the
memory back only when the whole message goes. While a graph is worked on, its large constants are
therefore *held*: the graph has their type and shape, the numbers lie elsewhere once.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, TensorProto, helper

from sepdeploy.exporters.onnx_graph.graph import Array, read_names, set_initializers, tensor_bytes

HELD_BYTES = 1 << 16  # smaller constants stay in the graph
_LOCATION = "held"

Weights = dict[str, Array]


def placeholder(name: str, data_type: int, dims: tuple[int, ...]) -> TensorProto:
    """A constant of a graph whose numbers are held."""
    item = TensorProto(name=name, data_type=data_type, dims=dims)
    item.data_location = TensorProto.EXTERNAL
    item.external_data.add(key="location", value=_LOCATION)
    return item


def is_held(item: TensorProto) -> bool:
    """Whether a constant's numbers are kept beside the graph."""
    return item.data_location == TensorProto.EXTERNAL and any(
        e.key == "location" and e.value == _LOCATION for e in item.external_data
    )


def is_large(item: TensorProto) -> bool:
    """Whether a constant is worth holding."""
    return tensor_bytes(item) > HELD_BYTES


def hold(name: str, array: Array, weights: Weights) -> TensorProto:
    """Keep an array in ``weights`` and return the constant that stands for it."""
    weights[name] = array
    return placeholder(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def detach(
    model: ModelProto, keep: frozenset[str] = frozenset()
) -> tuple[ModelProto, dict[str, TensorProto]]:
    """A copy of a model without the numbers of its large constants.

    Args:
        model: The model; it is not changed and must live as long as the result is used.
        keep: Constants that are copied with their numbers, whatever their size.

    Returns:
        The light copy, and the model's own constants by name for those it leaves out.
    """
    light, left_out = ModelProto(), {}
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        _copy_field(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(light.graph, field.name, value)
    for item in model.graph.initializer:
        if item.name in keep or is_held(item) or not is_large(item):
            light.graph.initializer.add().CopyFrom(item)
        else:
            bare = placeholder(item.name, item.data_type, tuple(item.dims))
            light.graph.initializer.add().CopyFrom(bare)
            left_out[item.name] = item
    return light, left_out


def _copy_field(target: object, name: str, value: object) -> None:
    if isinstance(value, (int, float, str, bytes)):
        setattr(target, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)


def settle(model: ModelProto, weights: Mapping[str, Array]) -> None:
    """Put held numbers into their constants, in place.

    Args:
        model: A model with held constants.
        weights: Their numbers by name.
    """
    for item in model.graph.initializer:
        if is_held(item):
            array = weights[item.name]
            item.ClearField("external_data")
            item.ClearField("data_location")
            item.raw_data = array.tobytes()


def as_inputs(model: ModelProto) -> ModelProto:
    """A copy of a light model whose held constants are inputs of the graph.

    Checkers, shape inference and simplifiers then treat them as what they are to them: values of
    a known type and shape.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    held = [item for item in graph.initializer if is_held(item)]
    listed = {i.name for i in graph.input}
    for item in held:
        if item.name not in listed:
            graph.input.append(
                helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            )
    set_initializers(graph, [item for item in graph.initializer if not is_held(item)])
    return changed


def from_inputs(model: ModelProto, pattern: ModelProto) -> None:
    """Undo ``as_inputs``, in place, after the graph was worked on.

    Args:
        model: What came of ``as_inputs(pattern)``.
        pattern: The light model it was made from.
    """
    graph = model.graph
    held = {item.name: item for item in pattern.graph.initializer if is_held(item)}
    listed = {i.name for i in pattern.graph.input}
    inputs = [i for i in graph.input if i.name not in held or i.name in listed]
    read = {name for node in graph.node for name in read_names(node)}
    read |= {o.name for o in graph.output}
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(item for name, item in held.items() if name in read)


def total_bytes(model: ModelProto) -> int:
    """Size of a light model's file once its held constants are in it, a few bytes aside."""
    held = sum(tensor_bytes(t) for t in model.graph.initializer if is_held(t))
    return int(model.ByteSize()) + held

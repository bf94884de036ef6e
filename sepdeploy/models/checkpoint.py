"""``model.pt``: saving and loading models.

The file is a table of plain values and tensors: ``format`` "sepdeploy.model", ``version``,
``arch`` and ``arch_kwargs``, ``layers`` (structure of every linear layer, by name),
``convolutions`` (structure of every structured convolution, by name; absent = none),
``state_dict`` (of ``net``), ``computed`` (values of weights that are computed from others, for
factories that make plain ones; absent = none), ``input`` and ``provenance``. A user's own
architecture is recorded by name only; the file never decides which code is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.codec import from_json, to_json
from sepdeploy.errors import MODEL_AGAIN, OTHER_LAYERS, BadInput, unknown_name
from sepdeploy.layers import (
    StructuredConv2d,
    StructuredLinear,
    convolution_like,
    has_bias,
    is_structured,
    make_linear,
)
from sepdeploy.models.accepting import WRAPPER_PREFIXES, plain_key
from sepdeploy.models.computed_weights import computed_values, made_of, settle, write_out
from sepdeploy.models.empty_weights import without_storage
from sepdeploy.models.factory import ARCHITECTURES, build_net, is_foreign, replace_module
from sepdeploy.models.model import Model
from sepdeploy.models.tensor_file import read_tensor_file, write_tensor_file
from sepdeploy.records import InputSpec
from sepdeploy.structures import DenseSpec, Form, Spec, spec_from_json

FORMAT = "sepdeploy.model"
TRAINING_FORMAT = "sepdeploy.training"
NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")  # of others' checkpoints
# How the names end of what weights are computed from.
COMPUTED_FROM = ("_orig", "_mask", "_g", "_v", "original", "original0", "original1")
COMPUTED_HINT = (
    "the factory must make the same parametrizations; prune.remove makes pruning masks permanent"
)
VERSION = 1


def linear_specs(net: nn.Module) -> dict[str, Spec]:
    """The structure of every linear layer of a network, by name."""
    specs: dict[str, Spec] = {}
    for name, module in net.named_modules():
        if is_structured(module):
            specs[name] = module.spec
        elif type(module) is nn.Linear:
            specs[name] = DenseSpec(module.in_features, module.out_features)
    return specs


def structure_forms(net: nn.Module) -> dict[str, Form]:
    """The structure of every structured layer of a network, by name."""
    modules = net.named_modules()
    return {n: m.spec for n, m in modules if isinstance(m, (StructuredLinear, StructuredConv2d))}


def convolution_forms(net: nn.Module) -> dict[str, Any]:
    """What is saved of every structured convolution of a network, by name."""
    modules = net.named_modules()
    return {n: m.spec.saved for n, m in modules if isinstance(m, StructuredConv2d)}


def save(model: Model, path: Path | str) -> None:
    """Write a model; the file appears whole or not at all.

    Raises:
        BadInput: The folder cannot be written or the disk is full; NaN or infinite weights;
            architecture options or provenance that are not plain values.
    """
    state = {k: v.detach().cpu() for k, v in model.net.state_dict().items()}
    computed = {k: v.detach().cpu() for k, v in computed_values(model.net).items()}
    try:
        _check_finite(state | computed)
    except BadInput as error:
        raise BadInput(f"{path} is not written: {error.message}", hint=error.hint) from error
    data = {
        "format": FORMAT,
        "version": VERSION,
        "arch": model.arch,
        "arch_kwargs": _plain_json(model.arch_kwargs, "architecture options"),
        "layers": {name: spec.to_json() for name, spec in linear_specs(model.net).items()},
        "convolutions": convolution_forms(model.net),
        "input": to_json(model.input),
        "provenance": _plain_json(model.provenance, "provenance"),
        "state_dict": state,
        "computed": computed,
    }
    write_tensor_file(data, path)


def _plain_json(value: Any, what: str) -> Any:
    try:
        return json.loads(json.dumps(to_json(value)))
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{what} cannot be saved: {error}", hint="keep plain numbers, texts and lists there"
        ) from error


def load(path: Path | str, arch: str | None = None) -> Model:
    """Read a model, in evaluation mode, on the CPU.

    Args:
        path: A file written by ``save``.
        arch: "package.module:factory" for a model of the user's own architecture; the file
            only names it, the caller must choose it.

    Raises:
        BadInput: Anything wrong with the file: see ``read_tensor_file``; unknown architecture,
            missing or extra tensors, wrong shapes, NaN or infinite weights.
    """
    data = read_tensor_file(path)
    try:
        return _from_table(data, arch)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", hint=error.hint) from error


def _from_table(data: Mapping[str, Any], asked_arch: str | None) -> Model:
    if data.get("format") != FORMAT:
        raise _other_table(data)
    if data.get("version") != VERSION:
        raise BadInput(
            f"the file has version {data.get('version')!r:.20}, this program reads {VERSION}",
            hint="update sepdeploy",
        )
    arch = _choose_arch(_expect(data, "arch", str), asked_arch)
    kwargs = _expect(data, "arch_kwargs", dict)
    input = from_json(InputSpec, _expect(data, "input", dict), where="input")
    data = {"convolutions": {}, "computed": {}, **data}
    net = _rebuild(
        partial(build_net, arch, input, kwargs),
        is_foreign(arch),
        _expect(data, "layers", dict),
        _expect(data, "convolutions", dict),
        _expect(data, "state_dict", dict),
        _expect(data, "computed", dict),
    )
    provenance = _expect(data, "provenance", dict)
    return Model(net, input, arch=arch, arch_kwargs=kwargs, provenance=provenance).eval()


def _other_table(data: Mapping[str, Any]) -> BadInput:
    """What a table of tensors is that is no model of ours."""
    nested = next((k for k in NESTED if isinstance(data.get(k), dict)), "")
    names = [str(k) for k in (data[nested] if nested else data)]
    into = f"module.load_state_dict(torch.load(path){f'[{nested!r}]' if nested else ''})"
    if data.get("format") == TRAINING_FORMAT:
        return BadInput(
            "this is the state of a training that is not finished, not a model",
            hint="sepdeploy train with --resume finishes it",
        )
    for prefix, maker in WRAPPER_PREFIXES.items():
        if names and all(name.startswith(prefix) for name in names):
            return BadInput(
                f"this is the state dict of a module inside {maker}, not a sepdeploy model",
                hint=f"take '{prefix}' off its names, then {into}, sepdeploy.wrap and save",
            )
    what = f"a checkpoint with a '{nested}'" if nested else "a bare table of tensors"
    return BadInput(
        f"this is {what}, not a sepdeploy model", hint=f"{into}, then sepdeploy.wrap and save"
    )


def _expect(data: Mapping[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if not isinstance(value, kind):
        raise BadInput(f"'{key}' is missing or is a {type(value).__name__}", hint=MODEL_AGAIN)
    return value


def _choose_arch(recorded: str, asked: str | None) -> str:
    if not is_foreign(recorded) and recorded:
        if recorded not in ARCHITECTURES:
            error = unknown_name("architecture", recorded[:60], ARCHITECTURES)
            raise BadInput(error.message, hint="was the file written by a newer sepdeploy?")
        if asked is None or asked == recorded:
            return recorded
        raise BadInput(f"the model is a '{recorded}', not a '{asked}'", hint="leave --arch out")
    if asked is None:
        own = f" ('{recorded[:80]}')" if recorded else ""
        raise BadInput(
            f"the file holds a network of the user's own{own}",
            hint="give --arch package.module:factory (arch= in Python); files never choose code",
        )
    if recorded and asked != recorded:
        raise BadInput(
            f"the model was made with '{recorded[:80]}', not with '{asked}'",
            hint=f"give --arch {recorded[:80]} if you trust that code",
        )
    return asked


def _rebuild(
    make: Callable[[], nn.Module],
    foreign: bool,
    layers: dict[str, Any],
    convolutions: dict[str, Any],
    state: dict[str, Tensor],
    computed: dict[str, Tensor],
) -> nn.Module:
    """Build the network on storage-less tensors, compare, and only then take the weights."""
    specs = {str(k): spec_from_json(v, where=f"layer '{k!s:.60}'") for k, v in layers.items()}
    held = sum(t.numel() for t in state.values() if isinstance(t, Tensor))
    if sum(spec.weight_params for spec in specs.values()) > held:
        raise BadInput("the layers claim more weights than the file holds", hint=MODEL_AGAIN)
    with torch.device("cpu") if foreign else without_storage():
        net = make()
        _take_values(net.state_dict(), state, computed)
        _give_structure(net, specs, convolutions, state)
    _give_own_names(net.state_dict(), state)
    _check_state(net.state_dict(), state)
    _check_finite(state | computed)
    own = {key: state.pop(key).clone().contiguous() for key in list(state)}  # never twice in full
    net.load_state_dict(own, assign=True)
    if any(t.is_meta for t in net.buffers()):  # buffers that no file holds must be computed
        net = make()
        _give_structure(net, specs, convolutions, own)
        net.load_state_dict(own)
    settle(net)
    _hold_to_values(net, computed)
    return net


def _take_values(
    expected: Mapping[str, Tensor], state: dict[str, Tensor], computed: Mapping[str, Tensor]
) -> None:
    """Take the value of a computed weight where the factory does not compute it the same way."""
    for weight, value in computed.items():
        if not isinstance(value, Tensor):
            raise BadInput(f"the value of '{weight!s:.60}' is no tensor", hint=MODEL_AGAIN)
        held = made_of(str(weight), state)
        if held and held != made_of(str(weight), expected):
            for key in held:
                del state[key]
            state[weight] = value


def _hold_to_values(net: nn.Module, computed: Mapping[str, Tensor]) -> None:
    """Write out what the factory computes from the same tensors in another way."""
    own = computed_values(net) if computed else {}
    for weight in own.keys() & computed.keys():
        value = computed[weight]
        _check_state({weight: own[weight]}, {weight: value})
        if not torch.allclose(own[weight], value, rtol=1e-4, atol=1e-6 * float(value.norm())):
            write_out(net, {weight})
            net.load_state_dict({weight: value}, strict=False)


def _give_structure(
    net: nn.Module,
    specs: Mapping[str, Spec],
    convolutions: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """Give a fresh network the structures of a file, weights written out where theirs are."""
    changed = {name for name, spec in specs.items() if not isinstance(spec, DenseSpec)}
    write_out(net, changed | state.keys())
    _apply_specs(net, specs)
    _apply_forms(net, convolutions)


def _give_own_names(expected: Mapping[str, Tensor], state: dict[str, Tensor]) -> None:
    """Pass over what DataParallel and ``torch.compile`` add to names, on either side."""
    names = {plain_key(key): key for key in expected}
    for key in [key for key in state if key not in expected]:
        own = names.get(plain_key(str(key)))
        if own is not None and own not in state:
            state[own] = state.pop(key)


def _apply_specs(net: nn.Module, specs: Mapping[str, Spec]) -> None:
    """Give each layer the structure the file says, where the factory made another one."""
    current = linear_specs(net)
    for name, spec in specs.items():
        found = current.get(name)
        if found is None:
            raise BadInput(f"the architecture has no linear layer '{name[:60]}'", hint=OTHER_LAYERS)
        if found == spec:
            continue
        if (found.in_features, found.out_features) != (spec.in_features, spec.out_features):
            raise BadInput(
                f"layer '{name}' is {found.in_features} → {found.out_features} in the "
                f"architecture and {spec.in_features} → {spec.out_features} in the file",
                hint=OTHER_LAYERS,
            )
        replace_module(net, name, make_linear(spec, has_bias(net.get_submodule(name))))


def _apply_forms(net: nn.Module, table: Mapping[str, Any]) -> None:
    """Give each convolution the form the file says."""
    modules = dict(net.named_modules())
    for name, form in table.items():
        found = modules.get(name)
        if isinstance(found, StructuredConv2d):
            if found.spec.saved != form:
                raise BadInput(
                    f"convolution '{name[:60]}' is {found.spec.text}, not of the form {form!r:.40}",
                    hint=OTHER_LAYERS,
                )
            continue
        made = convolution_like(found, form) if isinstance(found, nn.Conv2d) else None
        if made is None:
            raise BadInput(
                f"'{name!s:.60}' is no convolution of the form {form!r:.40}", hint=OTHER_LAYERS
            )
        replace_module(net, name, made)


def _check_state(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        parts = [
            f"{what} {', '.join(sorted(map(str, keys))[:3])}"[:120]
            for what, keys in (("lacks", missing), ("has unknown", extra))
            if keys
        ]
        computed = any(str(key).endswith(COMPUTED_FROM) for key in {*missing, *extra})
        raise BadInput(
            f"the weights do not fit the architecture: {'; '.join(parts)}",
            hint=COMPUTED_HINT if computed else OTHER_LAYERS,
        )
    for key, tensor in expected.items():
        value = found[key]
        if not isinstance(value, Tensor):
            raise BadInput(f"'{key}' is a {type(value).__name__}, not a tensor", hint=MODEL_AGAIN)
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise BadInput(
                f"'{key}' is {value.dtype} {tuple(value.shape)}, "
                f"expected {tensor.dtype} {tuple(tensor.shape)}",
                hint=MODEL_AGAIN,
            )


def _check_finite(state: Mapping[str, Any]) -> None:
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(
                f"'{key}' holds NaN or infinite weights",
                hint="the training diverged; lower the learning rate or use an earlier checkpoint",
            )

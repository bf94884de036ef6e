"""Small models, and emulators of cores that skip where the emulation was not set up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.devices.bundle.tools import find_compiler
from sepdeploy.devices.emulation import Emulator, qemu_transport
from sepdeploy.errors import Missing
from sepdeploy.exporters.tflite_file.write import write_tflite

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Sample:
    """A model file and inputs for it."""

    path: Path
    inputs: Floats


@pytest.fixture
def emulator() -> Iterator[Callable[[str], Emulator]]:
    """Give a function from a core's name to its emulator."""
    opened: list[Emulator] = []

    def open_core(core: str) -> Emulator:
        try:
            opened.append(Emulator(qemu_transport(core)))
        except Missing as error:
            pytest.skip(f"no emulation: {error.message}; {error.hint}")
        return opened[-1]

    yield open_core
    for each in opened:
        each.close()


def gemm_model(weights: list[Floats], shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return dense layers with ReLU between them, bias zero."""
    nodes = [helper.make_node("Flatten", ["input"], ["x0"])]
    tensors = []
    for i, weight in enumerate(weights):
        last = i == len(weights) - 1
        tensors += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(np.zeros(len(weight), np.float32), f"b{i}"),
        ]
        out = "logits" if last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [out], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"x{i + 1}"]))
    classes = len(weights[-1])
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def conv_model(seed: int = 1) -> onnx.ModelProto:
    """Return a strided convolution on (3, 16, 16), ReLU and a dense layer."""
    generator = np.random.default_rng(seed)
    kernel = (generator.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32)
    weight = (generator.standard_normal((10, 512)) / 20).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv",
            ["input", "k", "kb"],
            ["h"],
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        ),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
    ]
    zeros = np.zeros(8, np.float32), np.zeros(10, np.float32)
    named = {"k": kernel, "kb": zeros[0], "w": weight, "b": zeros[1]}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v, k) for k, v in named.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def qdq_model(seed: int = 2) -> onnx.ModelProto:
    """Return two int8 dense layers in the quantise-dequantise form, 64 to 32 to 10."""
    generator = np.random.default_rng(seed)
    nodes, tensors = [], []

    def scale(name: str, value: float, zero: int, kind: Any) -> list[str]:
        tensors.append(numpy_helper.from_array(np.array(value, np.float32), f"{name}_s"))
        tensors.append(numpy_helper.from_array(np.array(zero, kind), f"{name}_z"))
        return [f"{name}_s", f"{name}_z"]

    def through(source: str, name: str, value: float, zero: int) -> str:
        affine = scale(name, value, zero, np.uint8)
        nodes.append(helper.make_node("QuantizeLinear", [source, *affine], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *affine], [name]))
        return name

    value = through("input", "x0", 1 / 255, 0)
    for i, (rows, columns) in enumerate([(32, 64), (10, 32)]):
        weight = generator.integers(-127, 128, (rows, columns)).astype(np.int8)
        bias = generator.integers(-2000, 2000, rows).astype(np.int32)
        step = 0.004 * (1 / 255 if i == 0 else 0.02)
        tensors += [
            numpy_helper.from_array(weight, f"w{i}_q"),
            numpy_helper.from_array(bias, f"b{i}_q"),
        ]
        for name, size in ((f"w{i}", 0.004), (f"b{i}", step)):
            kind = np.int8 if name[0] == "w" else np.int32
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [f"{name}_q", *scale(name, size, 0, kind)], [name]
                )
            )
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"y{i}"], transB=1))
        value = through(f"y{i}", f"x{i + 1}", 0.02, 100)
    nodes.append(helper.make_node("Identity", [value], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def int8_tflite(seed: int = 3) -> bytes:
    """Return one int8 dense layer, 64 to 10, whose input and output are int8 as well."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (10, 64)).astype(np.int8)
    bias = generator.integers(-2000, 2000, 10).astype(np.int32)
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]

    def tensor(name: str, shape: list[int], kind: int, scale: float, zero: int, data: Any) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, shape, kind
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        if data is None:
            made.shapeSignature = [-1, *shape[1:]]
        else:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        return made

    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("input", [1, 64], int8, 1 / 255, -128, None),
        tensor("w", [10, 64], int8, 0.004, 0, weight),
        tensor("b", [10], int32, 0.004 / 255, 0, bias),
        tensor("logits", [1, 10], int8, 0.02, 3, None),
    ]
    graph.inputs, graph.outputs = [0], [3]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    model.operatorCodes = [code]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [operator]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """Small models by name, with inputs."""
    folder = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(0)
    images = generator.random((5, 1, 28, 28), dtype=np.float32)
    colours = generator.random((5, 3, 16, 16), dtype=np.float32)
    rows = generator.random((5, 64), dtype=np.float32)
    weights = [
        (generator.standard_normal((64, 784)) / 28).astype(np.float32),
        (generator.standard_normal((10, 64)) / 8).astype(np.float32),
    ]
    found = {}
    for name, model, inputs in (
        ("mlp", gemm_model(weights, (1, 28, 28)), images),
        ("conv", conv_model(), colours),
    ):
        onnx.save(model, folder / f"{name}.onnx")
        write_tflite(model, folder / f"{name}.tflite")
        found[f"{name}.onnx"] = Sample(folder / f"{name}.onnx", inputs)
        found[f"{name}.tflite"] = Sample(folder / f"{name}.tflite", inputs)
    onnx.save(qdq_model(), folder / "int8.onnx")
    (folder / "int8.tflite").write_bytes(int8_tflite())
    for suffix in ("onnx", "tflite"):
        found[f"int8.{suffix}"] = Sample(folder / f"int8.{suffix}", rows)
    return found


@pytest.fixture(scope="session")
def dot_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AArch64 program that executes one int8 dot product and exits with 0."""
    try:
        compiler = find_compiler("aarch64")
    except Missing as error:
        pytest.skip(f"{error.message}; {error.hint}")
    folder = tmp_path_factory.mktemp("programs")
    source, target = folder / "dot.c", folder / "dot"
    source.write_text(
        "void _start(void) {\n"
        '    __asm__ volatile(".inst 0x4e829420\\n"  /* sdot v0.4s, v1.16b, v2.16b */\n'
        '                     "mov x0, #0\\n mov x8, #93\\n svc #0");\n'
        "}\n"
    )
    command = [compiler.path, "-nostdlib", "-static", "-o", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sepdeploy"


@pytest.fixture
def copied_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundles and plugins that were built, without the downloads."""
    from sepdeploy.cache import cache_folder

    source = cache_folder()
    if not (source / "bundles").is_dir():
        pytest.skip("no emulation: sepdeploy devices setup rpi4")
    target = tmp_path / "cache" / "sepdeploy"
    for name in ("bundles", "plugins", "boards"):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return target

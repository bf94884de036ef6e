"""Builds small .tflite files with the schema that ships in ai-edge-litert, not with our writer."""

import numpy as np
import pytest


class Tflite:
    """Collects tensors and operators; ``save`` writes the file."""

    def __init__(self):
        self.schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
        self.model = self.schema.ModelT()
        self.model.version = 3
        self.model.buffers = [self.schema.BufferT()]
        self.model.operatorCodes = []
        self.model.metadata = []
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, name, shape, *, data=None, dynamic=False, dtype="FLOAT32", affine=None):
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = getattr(self.schema.TensorType, dtype)
        if dynamic:
            tensor.shapeSignature = [-1, *shape[1:]]
        if affine is not None:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [affine[0]], [affine[1]]
        tensor.buffer = 0 if data is None else self._buffer(data.tobytes())
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _buffer(self, content):
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def operator(self, name, inputs, outputs, options=None, version=1):
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.graph.operators.append(operator)

    def metadata(self, name, text):
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self._buffer(text.encode())
        self.model.metadata.append(entry)

    def save(self, path, inputs, outputs):
        import flatbuffers

        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def linear(path, weight, bias, *, dynamic=True, entry=None, rows=1):
    """x (N, n_in) -> x Wᵀ + b."""
    file = Tflite()
    out, features = weight.shape
    x = file.tensor("input", (rows, features), dynamic=dynamic)
    w = file.tensor("w", weight.shape, data=weight)
    b = file.tensor("b", bias.shape, data=bias)
    y = file.tensor("logits", (rows, out), dynamic=dynamic)
    file.operator("FULLY_CONNECTED", [x, w, b], [y], file.schema.FullyConnectedOptionsT())
    if entry is not None:
        file.metadata("sepdeploy", entry)
    return file.save(path, [x], [y])


def image_linear(path, weight, bias, shape):
    """Images (N, H, W, C) -> flat in NHWC order -> x Wᵀ + b."""
    c, h, w = shape
    file = Tflite()
    x = file.tensor("input", (1, h, w, c), dynamic=True)
    target = file.tensor("shape", (2,), data=np.array([-1, h * w * c], np.int32), dtype="INT32")
    flat = file.tensor("flat", (1, h * w * c), dynamic=True)
    file.operator("RESHAPE", [x, target], [flat], file.schema.ReshapeOptionsT())
    kernel = file.tensor("w", weight.shape, data=weight)
    b = file.tensor("b", bias.shape, data=bias)
    y = file.tensor("logits", (1, len(weight)), dynamic=True)
    file.operator("FULLY_CONNECTED", [flat, kernel, b], [y], file.schema.FullyConnectedOptionsT())
    return file.save(path, [x], [y])


def int8_linear(path, weight, affine_in, affine_out, weight_scale):
    """An int8 layer with int8 input and output."""
    file = Tflite()
    out, features = weight.shape
    x = file.tensor("input", (1, features), dynamic=True, dtype="INT8", affine=affine_in)
    w = file.tensor("w", weight.shape, data=weight, dtype="INT8", affine=(weight_scale, 0))
    zeros = np.zeros(out, np.int32)
    bias_affine = (affine_in[0] * weight_scale, 0)
    b = file.tensor("b", (out,), data=zeros, dtype="INT32", affine=bias_affine)
    y = file.tensor("logits", (1, out), dynamic=True, dtype="INT8", affine=affine_out)
    options = file.schema.FullyConnectedOptionsT()
    file.operator("FULLY_CONNECTED", [x, w, b], [y], options, version=4)
    return file.save(path, [x], [y])

"""TFLite files of others: several ports, scales, open sizes, names of a signature or of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_builder

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.facts import describe

pytest.importorskip("ai_edge_litert")
NAMES = runtimes.installed("tflite")


def two_in_two_out(path):
    """sum = a + b and product = a · b, of images N,H,W,C."""
    file = tflite_builder.Tflite()
    a, b, s, p = (file.tensor(n, (1, 3, 4, 2), dynamic=True) for n in ("a", "b", "sum", "product"))
    file.operator("ADD", [a, b], [s], file.schema.AddOptionsT())
    file.operator("MUL", [a, b], [p], file.schema.MulOptionsT())
    return file.save(path, [a, b], [s, p])


@pytest.mark.parametrize("name", NAMES)
def test_named_ports_are_nchw_for_every_caller(tmp_path, name):
    rng = np.random.default_rng(0)
    with runtimes.open(two_in_two_out(tmp_path / "net.tflite"), name) as session:
        for rows in (1, 3):
            a, b = (rng.random((rows, 2, 3, 4), dtype=np.float32) for _ in range(2))
            found = session.run({"a": a, "b": b})
            own = a.transpose(0, 2, 3, 1), b.transpose(0, 2, 3, 1)
            np.testing.assert_allclose(found["sum"], own[0] + own[1], rtol=1e-6)
            np.testing.assert_allclose(found["product"], own[0] * own[1], rtol=1e-6)
        with pytest.raises(BadInput, match="one input"):
            session.run(a)


def quantised(path):
    """int8 in and out, an int8 weight, as a converter for accelerators writes it."""
    file = tflite_builder.Tflite()
    weight = np.array([[10, -20, 30], [1, 2, 3]], np.int8)
    x = file.tensor("x", (1, 3), dtype="INT8", affine=(0.5, -1), dynamic=True)
    w = file.tensor("w", (2, 3), dtype="INT8", data=weight, affine=(0.1, 0))
    b = file.tensor("b", (2,), dtype="INT32", data=np.zeros(2, np.int32), affine=(0.05, 0))
    y = file.tensor("y", (1, 2), dtype="INT8", affine=(0.25, 3), dynamic=True)
    file.operator("FULLY_CONNECTED", [x, w, b], [y], file.schema.FullyConnectedOptionsT(), 4)
    return file.save(path, [x], [y])


def test_scales_types_and_work_are_read_from_the_file(tmp_path):
    found = describe(quantised(tmp_path / "net.tflite"))
    (given,) = found.file.inputs
    assert (given.name, given.dtype, given.shape) == ("x", "int8", ("?", 3))
    assert (given.affine.scale, given.affine.zero_point) == (0.5, -1)
    (layer,) = found.layers
    assert (layer.operator, layer.dtype, layer.params, layer.macs) == (
        "FULLY_CONNECTED",
        "int8",
        8,
        6,
    )
    assert layer.affine.scale == pytest.approx(0.1)
    assert found.file.operators == {"FULLY_CONNECTED": 1}


@pytest.mark.parametrize("name", NAMES)
def test_real_numbers_are_scaled_for_a_quantised_port(tmp_path, name):
    real = np.array([[1.0, 2.0, -3.0]], np.float32)
    with runtimes.open(quantised(tmp_path / "net.tflite"), name) as session:
        found = session.run({"x": real})["y"]
        stored = np.array([[1, 3, -7]], np.int8)  # real / 0.5 - 1
        np.testing.assert_array_equal(session.run({"x": stored})["y"], found)
    wanted = real @ np.array([[10, -20, 30], [1, 2, 3]]).T * 0.1
    np.testing.assert_allclose(found, wanted, atol=0.25)  # one step of the output's scale

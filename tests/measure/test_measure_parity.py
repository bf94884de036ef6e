"""Parity certificates: right files pass, wrong ones fail and the layer at fault is named."""

import numpy as np
import pytest

from sepdeploy import measure, runtimes
from sepdeploy.errors import BadInput, Missing
from sepdeploy.measure.proof import fidelity
from sepdeploy.measure.proof.fidelity import faulty_layer
from sepdeploy.measure.proof.parity import compare

FORMATS = ["onnx", *(["tflite"] if runtimes.installed("tflite") else [])]


@pytest.mark.parametrize("form", FORMATS)
def test_a_right_file_passes_in_every_runtime_and_batch(artifacts, network, images, form):
    found = measure.check_parity(artifacts[form], images, network.logits(images))
    expected = {(r, b) for r in runtimes.installed(form) for b in (1, 3, 32)}
    assert {(p.runtime, p.batch) for p in found} == expected
    for parity in found:
        assert parity.passed
        assert 0 <= parity.max_rel <= 1e-5
        assert parity.label_agreement == 1.0
        assert parity.version == runtimes.versions()[parity.runtime]
        assert (parity.inputs, parity.tolerance, parity.worst_layer) == ("data", 1e-5, "")


def test_the_custom_flavour_passes_too(network, images, tmp_path):
    path = network.write(tmp_path / "custom.onnx", flavour="custom")
    assert all(p.passed for p in measure.check_parity(path, images, network.logits(images)))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("first.factors.1", "first"),
        ("first.bias", "first"),
        ("second.U", "second"),
        ("head.weight", "head"),
    ],
)
def test_a_wrong_weight_fails_and_its_layer_is_named(
    network, images, tmp_path, form, weight, layer
):
    wrong = network.write(tmp_path / f"wrong.{form}", canonical=network.scaled(weight, 1.01))
    runtime = runtimes.installed(form)[0]
    reference = network.logits(images)
    (found,) = measure.check_parity(
        wrong,
        images,
        reference,
        runtimes=[runtime],
        batches=[32],
        canonical=network.canonical(),
        inputs="synthetic",
    )
    assert not found.passed
    assert found.max_rel > 1e-5
    assert found.worst_layer == layer
    assert found.inputs == "synthetic"


def test_the_layer_is_looked_for_only_with_the_canonical_graph(network, images, tmp_path):
    wrong = network.write(tmp_path / "w.onnx", canonical=network.scaled("head.bias", 2))
    (found,) = measure.check_parity(wrong, images, network.logits(images), batches=[3])
    assert (found.passed, found.worst_layer) == (False, "")


@pytest.mark.parametrize("form", FORMATS)
def test_no_layer_is_at_fault_in_a_right_file(artifacts, network, images, form):
    runtime, canonical = runtimes.installed(form)[0], network.canonical()
    assert faulty_layer(artifacts[form], runtime, images, canonical, 1e-5) == ""


def test_looking_for_the_layer_never_hides_the_failure(artifacts, network, images, monkeypatch):
    """A graph without a runtime for its oracle: the failure stands, without a name."""

    def refuse(*_):
        raise Missing("no oracle", hint="do this")

    monkeypatch.setattr(fidelity, "oracle_values", refuse)
    reference, canonical = network.logits(images) * 2, network.canonical()
    (found,) = measure.check_parity(
        artifacts["onnx"], images, reference, batches=[3], canonical=canonical
    )
    assert (found.passed, found.worst_layer) == (False, "")


@pytest.mark.slow
def test_a_graph_whose_oracle_no_file_holds_is_not_looked_at(
    network, images, tmp_path, monkeypatch
):
    wrong = network.write(tmp_path / "wrong.onnx", canonical=network.scaled("head.weight", 1.1))
    canonical = network.canonical()
    found = (wrong, "onnxruntime", images, canonical, 1e-5)
    monkeypatch.setattr(fidelity, "PROTOBUF_LIMIT", 2 * canonical.ByteSize())
    assert faulty_layer(*found) == "head"
    monkeypatch.setattr(fidelity, "PROTOBUF_LIMIT", 2 * canonical.ByteSize() - 1)
    assert faulty_layer(*found) == ""


def test_max_rel_is_the_largest_error_over_the_largest_reference(network, images, tmp_path):
    """A head bias that is off by δ moves one class of every image by δ."""
    canonical = network.scaled("head.bias", 1)
    for tensor in canonical.graph.initializer:
        if tensor.name == "head.bias":
            values = network.biases["head"].copy()
            values[3] += 0.5
            tensor.raw_data = values.tobytes()
    path = network.write(tmp_path / "w.onnx", canonical=canonical)
    reference = network.logits(images)
    (found,) = measure.check_parity(path, images, reference, batches=[32])
    assert found.max_rel == pytest.approx(0.5 / np.abs(reference).max(), rel=1e-4)
    shifted = reference.copy()
    shifted[:, 3] += 0.5
    agreement = np.mean(shifted.argmax(axis=1) == reference.argmax(axis=1))
    assert found.label_agreement == pytest.approx(agreement)


# --- compare


def test_compare_follows_its_definition():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((8, 4)).astype(np.float32)
    logits = reference.copy()
    logits[2, 1] += 0.25
    error, agreement, same = compare(logits, reference)
    assert error == pytest.approx(0.25 / np.abs(reference).max(), rel=1e-6)
    assert agreement >= 7 / 8
    assert same


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_output_does_not_follow(value):
    reference = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    constant = np.full_like(reference, value)
    assert compare(constant, reference)[2] is False
    assert compare(np.repeat(reference[:1], 8, axis=0), reference)[2] is False
    assert compare(reference[::-1], reference)[2] is False
    assert compare(-reference, reference)[2] is False


def test_a_constant_output_fails_even_with_a_loose_tolerance(network, images, tmp_path):
    """As int8 files do that a runtime silently answers with zeros."""
    path = network.write(tmp_path / "zero.onnx", canonical=network.scaled("head.weight", 0))
    (found,) = measure.check_parity(
        path, images, network.logits(images), batches=[32], tolerance=100.0
    )
    assert found.max_rel < 100
    assert not found.passed


def test_outputs_that_are_not_finite_fail():
    reference = np.ones((2, 3), np.float32)
    logits = reference.copy()
    logits[0, 0] = np.nan
    assert compare(logits, reference) == (float("inf"), 0.0, False)


def test_a_constant_reference_is_compared_by_value():
    reference = np.full((4, 3), 2.0, np.float32)
    assert compare(reference, reference) == (0.0, 1.0, True)
    zero = np.zeros((4, 3), np.float32)
    assert compare(zero + np.float32(1e-3), zero)[0] == pytest.approx(1e-3)


# --- bad input


def test_images_must_not_be_zero(artifacts, network):
    """Zero inputs hide every wrong weight of the first layer."""
    zero = np.zeros((4, 256), np.float32)
    with pytest.raises(BadInput, match="not all zero"):
        measure.check_parity(artifacts["onnx"], zero, network.logits(zero))
    with pytest.raises(BadInput, match="not all zero"):
        measure.check_parity(artifacts["onnx"], zero[:0], network.logits(zero[:0]))


@pytest.mark.parametrize("reference", [np.ones((3, 10)), np.ones(32), np.full((32, 10), np.nan)])
def test_reference_logits_must_fit(artifacts, images, reference):
    with pytest.raises(BadInput, match="reference logits must be finite"):
        measure.check_parity(artifacts["onnx"], images, reference)


def test_another_number_of_classes(artifacts, images):
    with pytest.raises(BadInput, match=r"gives logits \(32, 10\) in onnxruntime"):
        measure.check_parity(artifacts["onnx"], images, np.ones((32, 11)), batches=[32])


def test_images_of_another_shape(artifacts, network, images):
    with pytest.raises(BadInput, match=r"expected a float32 array \(N, 256\)"):
        measure.check_parity(artifacts["onnx"], images[:, :-1], network.logits(images))


def test_a_runtime_of_the_other_format_or_unknown(artifacts, network, images):
    for name in ("litert", "nothing"):
        with pytest.raises(BadInput):
            measure.check_parity(artifacts["onnx"], images, network.logits(images), runtimes=[name])


def test_no_runtime_installed(artifacts, network, images, monkeypatch):
    monkeypatch.setattr(runtimes.Runtime, "version", lambda self: None)
    with pytest.raises(Missing, match="no runtime"):
        measure.check_parity(artifacts["onnx"], images, network.logits(images))

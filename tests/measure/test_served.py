"""A file that answers questions: the same logits as a run, and every way it may end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sepdeploy.errors import BadInput
from sepdeploy.jobs import Labelled, read_search, search_job
from sepdeploy.measure import run_job, run_logits
from sepdeploy.measure.served import served
from sepdeploy.threat import parse_attack


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that tells a bright image from a dark one."""
    weights = np.stack([-np.ones(16), np.ones(16)], axis=1).astype(np.float32) / 16
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([0.5, -0.5], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    target = tmp_path_factory.mktemp("served") / "bright.onnx"
    onnx.save(model, target)
    return target


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 4, 4), dtype=np.float32)


@pytest.mark.slow
def test_answers_are_those_of_a_run_whatever_the_number_of_images(path):
    with served(path, "onnxruntime", batch=8) as ask:
        for count in (1, 3, 8, 20):
            own = images(count)
            np.testing.assert_allclose(
                ask(own), run_logits(path, "onnxruntime", own)[0][0], atol=1e-6
            )


def test_a_question_of_another_shape_is_refused_and_the_next_answered(path):
    with served(path, "onnxruntime") as ask:
        with pytest.raises(BadInput, match=r"expected a float32 array \(N, 1, 4, 4\)"):
            ask(np.zeros((2, 1, 5, 5), np.float32))
        assert ask(images(2)).shape == (2, 2)


def test_a_file_that_is_none_is_refused(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x0a no graph")
    with pytest.raises(BadInput, match="broken"), served(broken, "onnxruntime"):
        pass


def test_a_process_that_ends_is_told(path):
    with served(path, "onnxruntime") as ask:
        ask.process.kill()
        with pytest.raises(BadInput, match="broke down on it, SIGKILL"):
            ask(images(1))


def test_a_search_finds_what_lies_within_the_radius_and_nothing_else(path, tmp_path):
    near, far = np.full((1, 1, 4, 4), 0.52, np.float32), np.full((1, 1, 4, 4), 0.9, np.float32)
    given = Labelled(np.concatenate([near, far]), np.array([1, 1]), np.arange(2))
    attack = parse_attack("square@60", 0.05)
    job = search_job(path, "onnxruntime", given, attack, tmp_path, batch=8)
    answer = run_job(job)
    found, logits = read_search(job, given.images)
    assert logits.argmax(axis=1).tolist() == [0, 1]
    assert np.abs(found - given.images).max() <= 0.05
    assert np.array_equal(found[1], given.images[1])
    assert 60 <= answer.queries <= 2 * 61
    np.testing.assert_allclose(logits, run_logits(path, "onnxruntime", found)[0][0], atol=1e-6)


def test_labels_that_the_file_does_not_know_are_an_error(path, tmp_path):
    given = Labelled(images(2), np.array([0, 2]), np.arange(2))
    job = search_job(path, "onnxruntime", given, parse_attack("square@5", 0.1), tmp_path, batch=8)
    with pytest.raises(BadInput, match="labels go up to 2"):
        run_job(job)


@pytest.mark.parametrize("damage", ["short", "float64", "no logits", "text"])
def test_a_search_that_answers_something_else_is_refused(path, tmp_path, damage):
    given = Labelled(images(2), np.array([0, 1]), np.arange(2))
    job = search_job(path, "onnxruntime", given, parse_attack("square@5", 0.1), tmp_path, batch=8)
    logits = np.zeros((2, 2), np.float32)
    content = {
        "short": {"images": given.images[:1], "logits": logits},
        "float64": {"images": given.images.astype(np.float64), "logits": logits},
        "no logits": {"images": given.images},
    }
    if damage == "text":
        job.output.write_text("nothing")
    else:
        np.savez(job.output, **content[damage])
    with pytest.raises(BadInput, match="expected 2 images with their logits"):
        read_search(job, given.images)

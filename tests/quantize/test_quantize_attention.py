"""Transformers in int8: what lies between their layers stays float in TFLite files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sepdeploy import runtimes  # noqa: E402
from sepdeploy.data import load  # noqa: E402
from sepdeploy.exporters.capture.trace import trace  # noqa: E402
from sepdeploy.exporters.entry import make_entry  # noqa: E402
from sepdeploy.exporters.formats import TFLITE, Order  # noqa: E402
from sepdeploy.exporters.plan import plan  # noqa: E402
from sepdeploy.exporters.quantize import Scheme  # noqa: E402
from sepdeploy.exporters.tflite_file import read_tflite  # noqa: E402
from sepdeploy.exports.judged_images import torch_logits  # noqa: E402
from sepdeploy.exports.quantize.files import Calibrated, calibrate  # noqa: E402
from sepdeploy.models import create  # noqa: E402

pytestmark = pytest.mark.skipif("litert" not in runtimes.installed("tflite"), reason="needs LiteRT")


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["litert", pytest.param("tflite-runtime-2.14", marks=pytest.mark.slow)]
)
def test_a_transformer_is_right_at_every_batch(target: str, tmp_path: Path) -> None:
    """Batch sizes in turns: LiteRT was wrong only where it was laid out again for more samples."""
    data = load("digits")
    torch.manual_seed(0)
    model = create("vit_tiny", data.input, 10, width=48, depth=2, patch=2, heads=3).eval()
    graph, layers = trace(model), model.layer_records()
    choices, entry = plan(graph, "tflite", quantized=True), make_entry(graph, data.input, layers)
    order = Order(graph, choices, entry, runtime=target)
    path = tmp_path / "vit.tflite"
    maker = Calibrated(TFLITE.quantizer(order, tmp_path), "litert", calibrate(data, 64, 0))
    precisions = maker.write(Scheme("static", {r.name: r.structure for r in layers}), path)
    assert {p.precision for p in precisions} == {"int8"}
    images = data.test.batch(slice(0, 128))
    wanted = torch_logits(model, images)
    for runtime in TFLITE.runtimes(path) or runtimes.installed("tflite"):
        with runtimes.open(path, runtime) as session:
            for n in (1, 32, 128, 3):
                found = session.run(images[:n])
                off = np.linalg.norm(found - wanted[:n]) / np.linalg.norm(wanted[:n])
                assert off < 0.1, (runtime, n)
    file = read_tflite(path)
    integer = {o.kind for o in file.ops if file.tensors[o.outputs[0]].dtype == "int8"}
    assert integer == {"QUANTIZE", "CONV_2D", "FULLY_CONNECTED"}

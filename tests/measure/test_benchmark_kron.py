"""The benchmark of the Kronecker layer, small: it runs, and its numbers hang together."""

import json

import numpy as np
import pytest

from benchmarks import kron
from sepdeploy import runtimes
from sepdeploy.structures import KronSpec


def test_the_pair_is_one_layer_and_its_dense_form(tmp_path):
    spec = KronSpec((8, 8), (8, 8))
    model = kron.kron_model(spec)
    A, B = (
        np.frombuffer(t.raw_data, np.float32).reshape(8, 8) for t in model.graph.initializer[:2]
    )
    x = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    for name in runtimes.versions():
        paths = kron.write_pair(spec, runtimes.RUNTIMES[name].format, tmp_path)
        logits = runtimes.open(paths["kron"], name).run(x)
        np.testing.assert_allclose(logits, x.reshape(3, 64) @ np.kron(A, B).T, rtol=1e-4, atol=1e-4)
        assert runtimes.open(paths["dense"], name).run(x).shape == (3, 64)
        assert paths["dense"].stat().st_size > 64 * 64 * 4 > paths["kron"].stat().st_size / 2


def test_it_prints_a_ratio_and_a_bound_per_runtime(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(kron, "BLOCKS", 2)
    target = tmp_path / "kron.json"
    assert kron.main(["--side", "16", "--rounds", "2", "--json", str(target)]) == 0
    text = capsys.readouterr().out
    found = json.loads(target.read_text())
    assert [r["runtime"] for r in found["results"]] == list(runtimes.versions())
    assert "HOST" in text
    for result in found["results"]:
        assert result["runtime"] in text
        assert result["kind"] == "HOST"
        assert result["ratio"] == pytest.approx(result["dense_us"] / result["kron_us"])
        assert result["ratio_low"] <= result["ratio_high"]
        assert len(result["round_us"]["kron"]) == 2
        assert result["read_gb_s"] > 0

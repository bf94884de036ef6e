"""The benchmarks of lowerings and exports, small: what they list, time and conclude."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import export, lowering
from benchmarks.candidates import candidates, weights, write_rule
from sepdeploy import runtimes
from sepdeploy.measure import Timing
from sepdeploy.structures import DebutSpec, KronSpec, LowRankSpec
from sepdeploy.structures.debut.chain import with_steps

FORMATS = {runtimes.RUNTIMES[name].format: name for name in reversed(runtimes.versions())}
CELL = lowering.Cell("r", "8x8", "x", 1, "mm", "mm", 50.0, 49.0, 400.0, 1.02, 0.125)


@pytest.mark.slow
def test_there_are_enough_cells_near_their_ratios():
    found = list(lowering.layers())
    assert len(found) * len(lowering.BATCHES) >= 40
    assert {(s.in_features, s.out_features) for _, s in found} == {*lowering.SIZES, lowering.SQUARE}
    for ratio in lowering.RATIOS:
        for modes in (2, 3):
            for size in lowering.SIZES:
                spec = lowering.kron_at(*size, modes, ratio)
                found_ratio = spec.in_features * spec.out_features / spec.weight_params
                assert ratio / 2 < found_ratio < ratio * 2


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "spec",
    [
        KronSpec((8, 6), (4, 10)),
        KronSpec((2, 4, 6), (4, 2, 5)),
        LowRankSpec(48, 40, 3),
        DebutSpec.of(with_steps([(2, 2), (4, 6), (5, 4)])),
    ],
)
def test_every_candidate_is_the_same_function(tmp_path, form, spec):
    """Merged ones have factors of their own, drawn for their speed: only shapes are compared."""
    x = np.random.default_rng(0).random((3, spec.in_features), dtype=np.float32)
    *factors, bias = weights(spec).values()
    expected = x @ spec.dense_matrix(factors).T + bias
    write_rule(spec, tmp_path / f"rule.{form}")
    files = {"rule": tmp_path / f"rule.{form}"}
    for name, write in candidates(spec, form):
        files[name] = tmp_path / f"{len(files)}.{form}"
        write(files[name])
    assert len(files) > (1 if isinstance(spec, LowRankSpec) else 4)
    for name, path in files.items():
        found = runtimes.open(path, FORMATS[form]).run(x)
        assert found.shape == expected.shape
        if "×" not in name:
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_bars_are_applied():
    assert not CELL.broken
    assert replace(CELL, regret=1.2).broken
    assert not replace(CELL, regret=1.2, best_us=9.0).broken
    assert replace(CELL, over_dense=1.06).broken
    assert lowering.verdict([CELL])[1]
    assert not lowering.verdict([replace(CELL, regret=1.03)])[1]
    assert "1 broken" in lowering.verdict([replace(CELL, regret=1.2)])[0][0]


def test_a_broken_cell_is_timed_again_and_no_more_than_asked(tmp_path, monkeypatch):
    regrets = iter([1.2, 1.0, 1.2, 1.2, 1.2])
    asked = []

    def bench(label, spec, runtime, dense, folder, batches):
        assert dense.parent == folder
        asked.append((label, batches))
        for batch in batches:
            yield replace(CELL, layer=label, batch=batch, regret=next(regrets))

    monkeypatch.setattr(lowering, "bench_layer", bench)
    monkeypatch.setattr(lowering, "write_dense", lambda n_in, n_out, path: None)
    chosen = [(label, LowRankSpec(784, 512, 2)) for label in "ab"]
    names = [next(iter(FORMATS.values()))]
    cells = list(lowering.measure_cells(names, chosen, (32,), 2, tmp_path))
    assert asked == [(label, (32,)) for label in "aabbb"]
    assert [(c.layer, c.broken) for c in cells] == [("a", False), ("b", True)]


@pytest.mark.slow
def test_it_prints_a_line_per_cell(capsys, monkeypatch):
    quick = Timing(min_rounds=2, min_seconds=0.0, max_seconds=0.1, block_us=20.0, warmup=1)
    monkeypatch.setattr(lowering, "FAST", quick)
    monkeypatch.setattr(lowering, "CAREFUL", quick)
    name = next(iter(FORMATS.values()))
    arguments = ["--runtime", name, "--only", "784x512 rank 2", "--batch", "1", "--again", "0"]
    assert lowering.main(arguments) in (0, 1)
    out = capsys.readouterr().out
    assert "HOST" in out
    assert "rank 2 " in out
    assert "1 cells" in out


def test_a_row_is_broken_below_its_bar_and_bold_in_the_table():
    row = export.Row("a", "b", "r", 1.0, 2.0, 2.0, 1.9, 2.1, 3.0)
    assert row.broken
    assert not replace(row, bar=None).broken
    assert not export.Row("a", "b", "r", bar=3.0, note="not built").broken
    text = export.table([row, replace(row, bar=1.0), export.Row("a", "b", "r", note="not built")])
    assert "**2.00× (1.90–2.10)**" in text
    assert "not built" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1

"""Wrong use and damaged files: one line, a next step, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import sepdeploy as sd
from sepdeploy.errors import BadInput

TOOL = [sys.executable, "-m", "sepdeploy"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nonsense"], 2, "nonsense"),
        (["bench", "--nonsense"], 2, "--nonsense"),
        (["bench", "missing.onnx"], 2, "missing.onnx"),
        (["bench", "{folder}/tiny.pt"], 2, "neither .onnx"),
        (["bench", "{folder}/tiny.onnx", "--device", "hots"], 2, "host"),
        (["bench", "{folder}/tiny.onnx", "--runtime", "onnxruntim"], 2, "onnxruntime"),
        (["bench", "{folder}/tiny.onnx", "--attack", "pdg-3"], 2, "pgd"),
        (["bench", "{folder}/tiny.onnx", "--eps", "much"], 2, "much"),
        (["bench", "{folder}/tiny.onnx", "--eps", "-1"], 2, "-1"),
        (["bench", "{folder}/tiny.onnx", "--norm", "l3", "--attack", "pgd-3"], 2, "l3"),
        (["bench", "{folder}/tiny.onnx", "--data", "digitz"], 2, "digits"),
        (
            ["bench", "{folder}/tiny.onnx", "--data", "mnist", "--data-dir", "/nowhere"],
            2,
            "/nowhere",
        ),
        (["bench", "{folder}/tiny.onnx", "--require", "weighed"], 2, "weighed"),
        (["bench", "{folder}/tiny.onnx", "--require", "measured"], 4, "MEASURED".lower()),
        (["export", "missing.pt"], 2, "missing.pt"),
        (["export", "{folder}/tiny.pt", "-f", "onxx"], 2, "onnx"),
        (["export", "{folder}/tiny.pt", "--flavour", "costum", "-f", "onnx"], 2, "custom"),
        (["export", "{folder}/tiny.pt", "-o", "/dev/null/x"], 2, "/dev/null"),
        (["inspect", "{folder}/tiny.eval.npz"], 2, "tiny.eval.npz"),
        (["inspect", "{folder}/tiny.manifest.json"], 2, "manifest"),
        (["verify", "{folder}/tiny.onnx"], 2, "tiny.onnx"),
        (["verify", "missing.manifest.json"], 2, "missing"),
        (["attack", "{folder}/tiny.pt", "-o", "/dev/null/x.npz"], 2, "/dev/null"),
        (["train", "--arch", "mlpp"], 2, "mlp"),
        (["train", "--objective", "pgd"], 2, "pgd-at"),
        (["train", "--structure", "krom"], 2, "kron"),
        (["train", "missing.toml"], 2, "missing.toml"),
        (["train", "--data", "mnist", "--data-dir", "/nowhere"], 2, "/nowhere"),
        (["devices", "show", "rpi"], 2, "device"),
    ],
)
def test_wrong_use_is_one_line_and_its_exit_code(
    exported: Path, call, words: list[str], code: int, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    got = call(*[w.format(folder=exported) for w in words])
    assert got.code == code, got.err
    assert said.lower() in got.line.lower() + got.err.lower()
    assert "next: " in got.err
    assert not list(tmp_path.iterdir())


def test_bench_in_an_empty_folder_is_usage(call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    got = call("bench")
    assert got.code == 2
    assert "manifest" in got.line


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.tflite"])
def test_a_flipped_byte_fails_verify_and_bench_with_6(copy: Path, call, name: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    got = call("verify", copy / "tiny.manifest.json", "--json")
    assert got.code == 6
    failed = [i for i in json.loads(got.out)["items"] if i["result"] != "ok"]
    assert [(i["path"], i["check"]) for i in failed] == [(name, "digest")]
    got = call("bench", path)
    assert got.code == 6
    assert name in got.line


@pytest.mark.slow
def test_a_changed_pack_or_model_is_noticed(copy: Path, call) -> None:
    (copy / "tiny.eval.npz").write_bytes(b"PK nonsense")
    (copy / "tiny.pt").write_bytes(b"nonsense")
    got = call("verify", copy / "tiny.manifest.json", "--json")
    assert got.code == 6
    failed = {i["path"] for i in json.loads(got.out)["items"] if i["result"] == "failed"}
    assert failed == {"tiny.eval.npz", "tiny.pt"}


def test_a_deleted_artifact_is_noticed(copy: Path, call) -> None:
    (copy / "tiny.tflite").unlink()
    got = call("verify", copy / "tiny.manifest.json")
    assert got.code == 6


@pytest.mark.parametrize("name", ["tiny.pt", "tiny.onnx", "tiny.tflite"])
@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_damaged_files_are_bad_input(
    copy: Path, tmp_path: Path, call, name: str, damage: str
) -> None:
    content = (copy / name).read_bytes()
    lone = tmp_path / f"lone{Path(name).suffix}"
    lone.write_bytes({"empty": b"", "half": content[: len(content) // 2],
                      "garbage": bytes(range(256)) * 20}[damage])  # fmt: skip
    assert call("inspect", lone).code == 2
    if lone.suffix == ".pt":
        assert call("export", lone).code == 2
    else:
        assert call("bench", lone).code == 2


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("the file ran code",))


def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path, call) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": "sepdeploy.model", "state_dict": _Bomb()}, path)
    got = call("export", path)
    assert got.code == 2
    assert "the file ran code" not in got.out + got.err
    path.write_bytes(pickle.dumps(_Bomb()))
    got = call("inspect", path)
    assert got.code == 2
    assert "the file ran code" not in got.out + got.err


def _resaved(copy: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    content = torch.load(copy / "tiny.pt", weights_only=True)
    change(content["state_dict"])
    path = copy / "changed.pt"
    torch.save(content, path)
    return path


def test_a_giant_tensor_in_a_tiny_file_is_refused(copy: Path, call) -> None:
    def giant(state: dict[str, torch.Tensor]) -> None:
        name = next(iter(state))
        state[name] = torch.zeros(1).expand(10**6, 10**6)

    path = _resaved(copy, giant)
    assert path.stat().st_size < 1 << 20
    for command in ("inspect", "export"):
        assert call(command, path).code == 2


def test_nan_weights_are_refused(copy: Path, call) -> None:
    def poison(state: dict[str, torch.Tensor]) -> None:
        next(iter(state.values())).view(-1)[0] = float("nan")

    got = call("export", _resaved(copy, poison))
    assert got.code == 2
    assert "nan" in got.line.lower()


def test_a_wrong_input_shape_names_both_shapes(exported: Path) -> None:
    for name in ("tiny.onnx", "tiny.tflite"):
        with (
            sd.open(exported / name) as session,
            pytest.raises(BadInput, match=r"\(N, 1, 8, 8\).*\(1, 3, 8, 8\)"),
        ):
            session.run(np.zeros((1, 3, 8, 8), np.float32))


def test_a_model_in_training_mode_is_not_exported(exported: Path, tmp_path: Path) -> None:
    model = sd.load(exported / "tiny.pt").train()
    with pytest.raises(BadInput, match="training mode"):
        sd.export(model, tmp_path / "model", eval_pack=False)
    assert not list(tmp_path.glob("model.onnx"))


@pytest.mark.slow
def test_an_attack_that_is_in_neither_twin_nor_pack_is_missing(copy: Path, call) -> None:
    (copy / "tiny.pt").unlink()
    got = call("bench", copy / "tiny.onnx", "--attack", "pgd-9")
    assert got.code == 4
    assert "pgd-9" in got.line
    assert call("bench", copy / "tiny.onnx", "--attack", "pgd-3").code == 0


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.iterdir()}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [*TOOL, "export", str(copy / "tiny.pt")], capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in copy.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "until"),
    [
        (["train", "--epochs", "500", "--hidden", "256,256", "-o", "new.pt"], "epoch"),
        (["export", "tiny.pt", "--attack", "pgd-5000", "-o", "out"], ""),
        (["bench", "tiny.onnx", "--attack", "pgd-5000"], "attacking"),
        (["bench", "tiny.onnx", "tiny.tflite", "--attack", "pgd-3"], "measuring"),
        (["attack", "tiny.pt", "-o", "adv.npz", "--attack", "pgd-5000", "--samples", "300"], ""),
        (["verify", "tiny.manifest.json"], "verifying"),
    ],
)
def test_ctrl_c_ends_with_130_and_nothing_half_written(
    copy: Path, words: list[str], until: str
) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    process = subprocess.Popen(
        [*TOOL, *words], cwd=copy, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    said = ""
    while until:
        line = process.stderr.readline()
        assert line, f"ended early: {said}"
        said += line
        if until in line:
            break
    time.sleep(0.3 if until else 4.0)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130, said + rest
    assert "Traceback" not in rest
    after = {p.name: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    kept = {"new.training.pt", "new.history.jsonl"}  # what --resume continues from
    assert {n: c for n, c in after.items() if n not in kept} == before

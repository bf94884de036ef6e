"""Trainings by several processes: the same weights as by one, one voice, one failure."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from compared_trainings import relative

from sepdeploy.data import load as load_data
from sepdeploy.models import create, load, save
from sepdeploy.training import fit, fitting, load_recipe
from sepdeploy.training.machine.team import ALONE, Team

pytestmark = pytest.mark.slow  # two processes that import torch take half a minute

CHILD = Path(__file__).with_name("several_processes.py")
COMMON = {
    "structure": "kron", "hidden": "64,36", "epochs": 1, "batch_size": 128, "steps": 3,
    "threads": 1, "seed": 11,
}  # fmt: skip
SAME = {
    "linf": {},
    "l2": {"norm": "l2", "eps": 1.0, "condition": 0.1, "weight_decay": 0.01},
    "uneven": {"batch_size": 262, "augment": "crop"},  # 1311 images: the last batch holds one
    "averaged": {"ema": 0.5, "structure": "lowrank:8", "optimizer": "sgd", "lr": 0.05},
    "guarded": {"objective": "fast-at"},
    "hydra": {"prune": "hydra", "sparsity": 0.5, "epochs": 2, "objective": "natural"},
}
TWICE = {  # objectives that pass the network twice before they descend
    "trades": {"objective": "trades"},
    "mart": {"objective": "mart", "optimizer": "sgd", "lr": 0.05},
    "fr": {"objective": "fr", "align_axes": "class"},
    "sar": {"objective": "sar"},
    "bf16": {"objective": "trades", "precision": "bf16", "accumulate": 2},
}
ADAPTIVE = {  # ranks that fall and grow, then one epoch of frozen ones
    "structure": "lowrank:12", "rank_tolerance": 0.2, "rank_every": 3, "rank_frozen": 1,
    "epochs": 3,
}  # fmt: skip
CONVOLUTIONS = ADAPTIVE | {
    "arch": "lenet", "hidden": [], "conv_rank": 4, "channels_last": True, "accumulate": 2,
    "steps": 1, "optimizer": "sgd", "lr": 0.05,
}  # fmt: skip
OTHERS = [
    {"name": "whole", "batch_norm": True, "recipe": COMMON | {"epochs": 2}},
    {"name": "parted", "batch_norm": True, "recipe": COMMON | {"epochs": 2}, "stop": 15},
    {"name": "parted", "batch_norm": True, "recipe": COMMON | {"epochs": 2}, "resume": True},
    {"name": "nan", "recipe": COMMON | {"objective": "natural"}, "break": [1, 4]},
    {"name": "unlike", "recipe": COMMON, "rank1": {"seed": 12}},
    {"name": "wider", "recipe": COMMON, "rank1": {"hidden": [24, 16]}},
    {"name": "missing", "recipe": COMMON, "rank1": {"accelerator": "cuda"}},
    {"name": "adaptive", "recipe": COMMON | ADAPTIVE},
    {"name": "adaptive-led", "recipe": COMMON | ADAPTIVE, "differs": 1},
    {"name": "adaptive-conv", "recipe": COMMON | CONVOLUTIONS},
    {"name": "adaptive-conv-led", "recipe": COMMON | CONVOLUTIONS, "differs": 1},
    {"name": "adaptive-parted", "recipe": COMMON | ADAPTIVE, "stop": 17},
    {"name": "adaptive-parted", "recipe": COMMON | ADAPTIVE, "resume": True},
    {"name": "mixed", "recipe": COMMON | {"objective": "fr"}},
    {"name": "linf", "recipe": COMMON, "resume": True},
]


def torchrun(*arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """What two processes made of all jobs: one table per process, and the folder."""
    if not torch.distributed.is_available() or torch.cuda.is_available():
        pytest.skip("needs gloo, and a machine without a GPU")
    folder = tmp_path_factory.mktemp("several")
    jobs = [{"name": name, "recipe": COMMON | more} for name, more in (SAME | TWICE).items()]
    (folder / "jobs.json").write_text(json.dumps([*jobs, *OTHERS]))
    process = torchrun(CHILD, folder)
    try:
        _, errors = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-3000:]
    tables = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return folder, tables


@pytest.fixture
def alone(tmp_path, monkeypatch):
    digits = load_data("digits")
    short = dataclasses.replace(digits, test=digits.test.take(40))
    monkeypatch.setattr(fitting, "load", lambda name, folder: short)

    def run(resume=False, **changes):
        return fit(load_recipe(None, COMMON | changes), out=tmp_path / "alone.pt", resume=resume)

    return run


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_as_one_with_the_same_global_batch(several, alone, name):
    folder, tables = several
    one = alone(**SAME[name])
    assert relative(one.model, load(folder / f"{name}.pt")) < 1e-6
    for entry, same in zip(tables[0][name]["history"], one.history, strict=True):
        assert entry["loss"] == pytest.approx(same["loss"], rel=1e-5)
        assert entry["clean_accuracy"] == pytest.approx(same["clean_accuracy"], abs=0.01)
        assert entry["robust_accuracy"] == pytest.approx(same["robust_accuracy"], abs=0.02)


@pytest.mark.parametrize("name", TWICE)
def test_two_passes_before_one_descent(several, alone, name):
    # compared in parts of the same size: these attacks start where the sign of a vanishing
    # gradient decides, and hence the last bit of a sum over another batch
    folder, _ = several
    changes = TWICE[name]
    one = alone(**changes | {"accumulate": 2 * changes.get("accumulate", 1)})
    assert relative(one.model, load(folder / f"{name}.pt")) < 1e-7


def test_every_process_holds_the_same_weights(several):
    _, (first, second) = several
    for name in [*SAME, *TWICE, "whole", "adaptive"]:
        assert first[name]["sha256"] == second[name]["sha256"]
        assert first[name]["history"] == second[name]["history"]
        assert first[name]["processes"] == 2


def test_only_the_first_process_speaks_and_writes(several):
    folder, (first, second) = several
    assert first["whole"]["events"] > 20
    assert second["whole"]["events"] == 0
    kept = {"jobs.json", "rank0.json", "rank1.json", "nan.training.pt", "nan.history.jsonl"}
    led = {"adaptive-led", "adaptive-conv", "adaptive-conv-led"}
    finished = {*SAME, *TWICE, "whole", "parted", "adaptive", "adaptive-parted", *led}
    made = {f"{n}{end}" for n in finished
            for end in (".pt", ".history.jsonl")}  # fmt: skip
    assert {p.name for p in folder.iterdir()} == kept | made


def test_dropout_and_batch_statistics_resume_to_the_same_bits(several):
    folder, tables = several
    for table in tables:
        assert table["parted"]["sha256"] == table["whole"]["sha256"]
        assert table["parted"]["history"] == table["whole"]["history"]
    assert load(folder / "linf.pt").provenance["processes"] == 2


def test_one_process_without_a_finite_loss_ends_all_with_one_message(several):
    _, (first, second) = several
    assert "the loss became nan in epoch 1, step 4" in first["nan"]["error"]
    assert first["nan"]["error"] == second["nan"]["error"]
    assert [first["nan"]["kind"], second["nan"]["kind"]] == ["BadInput", "ToldElsewhere"]
    assert first["kept"] == [0, 3]


def test_one_process_resumes_what_two_began(several, alone, tmp_path):
    folder, _ = several
    shutil.copy(folder / "nan.training.pt", tmp_path / "alone.training.pt")
    resumed = alone(resume=True, objective="natural")
    whole = alone(objective="natural")
    assert relative(whole.model, resumed.model) < 1e-6


def test_processes_that_differ_are_refused(several):
    _, tables = several
    for table in tables:
        assert "process 1 was given another seed than process 0" in table["unlike"]["error"]
        assert "process 1 was given another hidden than process 0" in table["wider"]["error"]
        assert "torch sees no GPU" in table["missing"]["error"]
    assert tables[0]["missing"]["error"].startswith("process 1: ")
    assert [t["missing"]["kind"] for t in tables] == ["Missing", "ToldElsewhere"]


def test_ranks_adapt_in_several_processes_as_in_one(several, alone):
    folder, tables = several
    one = alone(**ADAPTIVE, accumulate=2)
    assert relative(one.model, load(folder / "adaptive.pt")) < 1e-6
    ranks = [entry["ranks"] for entry in tables[0]["adaptive"]["history"]]
    assert ranks == [entry["ranks"] for entry in one.history]
    assert all(r < 12 for (r,) in ranks[0].values())  # they did adapt


def test_the_first_process_decides_ranks_and_factors(several):
    for table in several[1]:
        for name in ("adaptive", "adaptive-conv"):
            assert table[f"{name}-led"]["sha256"] == table[name]["sha256"]


def test_adaptive_ranks_resume_in_several_processes(several):
    for table in several[1]:
        assert table["adaptive-parted"]["sha256"] == table["adaptive"]["sha256"]
        assert table["adaptive-parted"]["history"] == table["adaptive"]["history"]


def test_objectives_that_mix_the_images_of_a_batch_are_refused(several):
    for table in several[1]:
        assert "mixes the images" in table["mixed"]["error"]
        assert table["mixed"]["code"] == 2


def test_attacks_exchange_nothing(several):
    for table in several[1]:
        counts = table["exchanges"]
        assert (counts["attack"], counts["gradients"], counts["part"]) == (0, 0, 0)
        assert counts["step"] >= 1
        assert counts["bare"]


def test_a_finished_training_is_read_by_all(several):
    for table in several[1]:
        assert table["linf"]["processes"] == 2
        assert table["linf"]["events"] < 3  # no step was taken


def test_shares_cover_everything_once():
    for world in (1, 2, 3, 5):
        for count in (0, 1, 2, 7, 10):
            shares = [Team(r, world).share(range(count)) for r in range(world)]
            assert [i for share in shares for i in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert ALONE.share([1, 2]) == [1, 2]


def write_recipe(folder, **changes):
    lines = [f"{k} = {json.dumps(v)}" for k, v in (COMMON | changes).items()]
    (folder / "recipe.toml").write_text("\n".join(lines))
    return folder / "recipe.toml"


@pytest.mark.slow
def test_the_command_line_says_everything_once(tmp_path):
    recipe = write_recipe(tmp_path, hidden=[64, 36], objective="natural")
    process = torchrun("-m", "sepdeploy", "train", recipe, "-o", tmp_path / "m.pt", "--json", "-")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(out)["provenance"]["processes"] == 2
    assert errors.count("next: sepdeploy export") == errors.count("1 thread, 2 processes") == 1
    process = torchrun("-m", "sepdeploy", "train", recipe, "--objective", "pgd")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("error: unknown objective 'pgd'") == 1


AT_THE_END = """
import atexit, sys
from pathlib import Path

def show(when):
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    print(f"{when}: {sum('gloo' in name for name in names)} gloo threads", file=sys.stderr)

atexit.register(show, "last")
from sepdeploy.training.machine import team
part = team._part
team._part = lambda: (show("first"), part())
from sepdeploy.cli import run
sys.exit(run())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names of threads: Linux only")
def test_no_thread_of_the_exchange_outlives_a_training(tmp_path):
    # one that dropped a tensor while the interpreter went down killed a training that had ended
    recipe = write_recipe(tmp_path, hidden=[64, 36], objective="natural")
    (tmp_path / "end.py").write_text(AT_THE_END)
    process = torchrun(tmp_path / "end.py", "train", recipe, "-o", tmp_path / "m.pt")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors.count("last: 0 gloo threads") == 2
    before = re.findall(r"first: (\d+) gloo", errors)
    if before == ["0", "0"]:
        pytest.skip("this torch does not name its gloo threads")
    assert len(before) == 2


@pytest.mark.slow
def test_compressing_in_several_processes_says_everything_once(tmp_path):
    recipe = write_recipe(tmp_path, epochs=1, objective="natural")
    tune = recipe.read_text().replace('structure = "kron"', "").replace('hidden = "64,36"', "")
    recipe.write_text(tune)
    torch.manual_seed(0)
    save(create("mlp", load_data("digits").input, 10, hidden=(64, 64)), tmp_path / "big.pt")
    command = ["-m", "sepdeploy", "compress", tmp_path / "big.pt", "--structure", "lowrank"]
    small = tmp_path / "small.pt"
    process = torchrun(*command, "--target", "3x", "-o", small, "--json", "-")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(out)["params"] == load(small).params
    assert errors.count("next: sepdeploy export") == 1
    words = ["--target", "3x", "-o", small, "--finetune", recipe]
    process = torchrun(*command, *words)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out.count("multiply-accumulates") == errors.count("next: sepdeploy export") == 1
    assert load(small).provenance["processes"] == 2
    process = torchrun(*command, "--target", "90000x")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("the best reachable is") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["interrupt", "kill"])
def test_an_end_by_hand_or_by_death_leaves_what_resumes(tmp_path, end):
    recipe = write_recipe(tmp_path, hidden=[64, 36], epochs=400, objective="natural")
    arguments = ["-m", "sepdeploy", "train", recipe, "-o", tmp_path / "m.pt"]
    process = torchrun(*arguments)
    history = tmp_path / "m.history.jsonl"
    deadline = time.monotonic() + 60
    while not history.exists() or not history.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if end == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "internal error" not in errors
    if end == "interrupt":
        assert errors.count("error: interrupted") == 1
    assert not (tmp_path / "m.pt").exists()
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"recipe.toml", "m.training.pt", "m.history.jsonl"}
    resumed = torchrun(*arguments, "--resume")
    try:
        while "resuming in epoch" not in (line := resumed.stderr.readline()):
            assert line, "it ended before it resumed"
    finally:
        resumed.send_signal(signal.SIGINT)  # torchrun's children have sessions of their own
        resumed.communicate(timeout=90)

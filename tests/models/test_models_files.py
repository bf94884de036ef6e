"""Model files: round trips, networks of the user, writing."""

import errno
import os
import subprocess
import sys
import textwrap
from importlib import import_module

import pytest
import torch
from file_cases import edited, refused
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import project_linear
from sepdeploy.models import (
    ARCHITECTURES,
    create,
    load,
    read_tensor_file,
    save,
    wrap,
    write_tensor_file,
)
from sepdeploy.models.factory import replace_module
from sepdeploy.records import InputSpec
from sepdeploy.structures import KronSpec, LowRankSpec

# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "structure", "options"),
    [
        ("mlp", None, {"hidden": (16,)}),
        ("mlp", "kron*2", {"hidden": (16, 24)}),
        ("mlp", {"fc1": "lowrank:3", "head": "kron"}, {"hidden": [16]}),
        ("mlp", {"fc1": "kron*2+sumbias", "head": "kron+sumbias"}, {"hidden": [16]}),
        ("lenet", "kron", {}),
    ],
)
def test_a_loaded_model_is_the_saved_one(tmp_path, arch, structure, options):
    input = InputSpec((1, 8, 8), (0.3,), (0.5,), ("a", "b", "ü"))
    model = create(arch, input, 3, structure, **options).eval()
    model.provenance = {"data": "digits", "attack": {"name": "pgd", "eps": 0.1}, "n": None}
    save(model, tmp_path / "m.pt")
    twin = load(tmp_path / "m.pt")
    assert not twin.training
    assert twin.input == input
    assert (twin.arch, twin.arch_kwargs) == (model.arch, model.arch_kwargs)
    assert twin.provenance == model.provenance
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in twin.state_dict().items())
    assert all(p.requires_grad for p in twin.parameters())
    x = torch.rand(4, 1, 8, 8)
    assert torch.allclose(twin(x), model(x), atol=1e-6)
    assert twin.layer_records() == model.layer_records()
    save(twin, tmp_path / "again.pt")
    assert (tmp_path / "again.pt").stat().st_size == (tmp_path / "m.pt").stat().st_size


def test_structures_changed_after_creation_are_kept(model, tmp_path):
    model = create("mlp", model.input, 10, hidden=(16, 12)).eval()
    for name, spec in (("fc1", KronSpec((8, 8), (4, 4), 2)), ("fc2", LowRankSpec(16, 12, 5))):
        linear = model.net.get_submodule(name)
        replace_module(model.net, name, project_linear(linear, spec))
    save(model, tmp_path / "m.pt")
    twin = load(tmp_path / "m.pt")
    assert twin.structured_layers().keys() == {"fc1", "fc2"}
    x = torch.rand(4, 1, 8, 8)
    assert torch.allclose(twin(x), model(x), atol=1e-6)


def test_weights_that_share_or_stride_are_loaded_as_they_look(path, model):
    weight = model.net.get_submodule("head").weight.detach()
    strided = torch.empty(12, 10).t()
    strided.copy_(weight)
    edited(path, lambda d: d["state_dict"].update({"head.weight": strided}))
    assert torch.equal(load(path).net.get_submodule("head").weight, weight)


def test_buffers_that_no_file_holds_are_computed_again(digit, tmp_path, monkeypatch):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(64, 3)
            self.register_buffer("shift", torch.arange(3.0), persistent=False)

        def forward(self, x):
            return self.lin(x.flatten(1)) + self.shift

    monkeypatch.setitem(ARCHITECTURES, "shifted", lambda classes: Shifted())
    model = create("shifted", digit, 3).eval()
    save(model, tmp_path / "m.pt")
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(load(tmp_path / "m.pt")(x), model(x), atol=1e-6)


def test_a_tensor_file_keeps_nested_values(tmp_path):
    data = {"step": 3, "rng": torch.arange(5, dtype=torch.uint8), "nested": [{"m": torch.ones(2)}]}
    write_tensor_file(data, tmp_path / "c.pt")
    back = read_tensor_file(tmp_path / "c.pt")
    assert back["step"] == 3
    assert torch.equal(back["rng"], data["rng"])
    assert torch.equal(back["nested"][0]["m"], torch.ones(2))


# --- networks of the user ---------------------------------------------------------------------

OWN = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes, width=6):
            super().__init__()
            self.inner = nn.Linear(64, width)
            self.out = nn.Linear(width, classes)
            self.register_buffer("table", __import__("torch").arange(3.0), persistent=False)

        def forward(self, x):
            return self.out(self.inner(x.flatten(1)).relu() + self.table.sum())

    def broken(classes):
        raise KeyError("no such\\nthing")

    def plain():
        return Net(10)

    number = 3

    def nothing():
        return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "owncode.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "owncode:Net"
    sys.modules.pop("owncode", None)


def test_a_network_of_the_user_comes_back_when_asked_for(own, digit, tmp_path):
    model = create(own, digit, 10, {"inner": "kron"}, width=8).eval()
    assert list(model.structured_layers()) == ["inner"]
    save(model, tmp_path / "own.pt")
    refused(tmp_path / "own.pt", "user's own")
    twin = load(tmp_path / "own.pt", arch=own)
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(twin(x), model(x), atol=1e-6)
    with pytest.raises(BadInput, match="unknown layer 'iner'; closest: inner"):
        create(own, digit, 10, {"iner": "kron"})


def test_one_structure_leaves_the_last_layer_of_the_user_dense(own, digit):
    model = create(own, digit, 10, "lowrank:2")
    assert list(model.structured_layers()) == ["inner"]


def test_a_wrapped_network_needs_its_code_again(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    net = import_module("owncode").plain()
    model = wrap(net, (1, 8, 8), class_names=[str(k) for k in range(10)]).eval()
    save(model, tmp_path / "w.pt")
    error = refused(tmp_path / "w.pt", "user's own")
    assert "package.module:factory" in error.hint
    x = torch.rand(2, 1, 8, 8)
    for name in ("owncode:plain", "owncode:Net"):
        assert torch.allclose(load(tmp_path / "w.pt", arch=name)(x), model(x), atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "match"),
    [
        ("owncode:Nett", "cannot be imported"),
        ("nowhere_at_all:Net", "cannot be imported"),
        (":Net", "cannot be imported"),
        ("owncode:", "cannot be imported"),
        ("owncode:number", "is a int, not a function"),
        ("owncode:nothing", "gave a NoneType"),
        ("owncode:broken", "cannot be built: KeyError"),
    ],
)
def test_code_of_the_user_that_does_not_work(own, digit, arch, match):
    with pytest.raises(BadInput, match=match) as caught:
        create(arch, digit, 10)
    assert "\n" not in caught.value.message


# --- writing ----------------------------------------------------------------------------------


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_diverged_weights_are_not_saved(model, tmp_path):
    with torch.no_grad():
        model.net.get_submodule("head").bias[0] = float("nan")
    with pytest.raises(BadInput, match=r"'head\.bias' holds NaN"):
        save(model, tmp_path / "m.pt")
    assert leftovers(tmp_path) == []


def test_provenance_must_be_plain(model, tmp_path):
    model.provenance = {"when": object()}
    with pytest.raises(BadInput, match="provenance cannot be saved"):
        save(model, tmp_path / "m.pt")
    assert leftovers(tmp_path) == []


def test_a_missing_folder_is_made(model, tmp_path):
    save(model, tmp_path / "none" / "yet" / "m.pt")
    assert load(tmp_path / "none" / "yet" / "m.pt").arch == model.arch


def test_folders_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*m\.pt: Not a directory"):
        save(model, tmp_path / "file" / "m.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="is a folder, not a file"):
        save(model, tmp_path / "folder")
    assert leftovers(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder(model, tmp_path, monkeypatch, code):
    def deny(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", deny)
    with pytest.raises(BadInput, match=os.strerror(code)):
        save(model, tmp_path / "m.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(model, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BadInput, match="Permission denied"):
            save(model, tmp_path / "m.pt")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_file(path, model):
    """A file size limit in a child process stands for the full disk."""
    old = path.read_bytes()
    script = textwrap.dedent(f"""
        import resource, signal
        from sepdeploy.errors import BadInput
        from sepdeploy.models import create, save
        from sepdeploy.records import InputSpec
        model = create("mlp", InputSpec((1, 8, 8)), 10, hidden=(256,))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        try:
            save(model, {str(path)!r})
        except BadInput as error:
            print(error.exit_code, error.message)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"2 cannot write {path}: File too large")
    assert path.read_bytes() == old
    assert leftovers(path.parent) == [path.name]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_interrupted_save_leaves_the_old_file_alone(path, model, monkeypatch, error):
    old = path.read_bytes()
    saved = torch.save

    def interrupted(data, file):
        saved({"half": torch.zeros(10)}, file)
        raise error

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises((KeyboardInterrupt, BadInput)):
        save(model, path)
    assert path.read_bytes() == old
    assert leftovers(path.parent) == [path.name]


def test_the_file_gets_the_usual_permissions(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.slow
def test_loading_draws_no_weights_and_imports_no_compiler(tmp_path):
    """The first draw into a tensor without storage would import it: seconds, for nothing."""
    path = tmp_path / "net.pt"
    torch.manual_seed(1)
    model = create("vgg11", InputSpec((3, 32, 32)), 10, base=4)
    save(model, path)
    script = "import sys; from sepdeploy import models; models.load(sys.argv[1])"
    script += "; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 0
    before = torch.random.get_rng_state()
    found = load(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    state = found.net.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.net.state_dict().items())

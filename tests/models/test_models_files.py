import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import zipfile
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import project_linear
from sepdeploy.models import (
    ARCHITECTURES,
    Model,
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


@pytest.fixture
def model(digit):
    torch.manual_seed(0)
    return create("mlp", digit, 10, {"fc1": "kron", "fc2": "lowrank:3"}, hidden=(16, 12)).eval()


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def refused(path, match, **options):
    """Load a file that must be refused by one line, and return the error."""
    with pytest.raises(BadInput, match=match) as caught:
        load(path, **options)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint
    assert len(caught.value.message) < 500
    return caught.value


def edited(path, edit):
    """Change the table of a model file."""
    data = torch.load(path, weights_only=True)
    edit(data)
    torch.save(data, path)
    return path


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "structure", "options"),
    [
        ("mlp", None, {"hidden": (16,)}),
        ("mlp", "kron*2", {"hidden": (16, 24)}),
        ("mlp", {"fc1": "lowrank:3", "head": "kron"}, {"hidden": [16]}),
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
    assert torch.equal(twin(x), model(x))
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
    assert torch.equal(twin(x), model(x))


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
    assert torch.equal(load(tmp_path / "m.pt")(x), model(x))


def test_a_tensor_file_keeps_nested_values(tmp_path):
    data = {"step": 3, "rng": torch.arange(5, dtype=torch.uint8), "nested": [{"m": torch.ones(2)}]}
    write_tensor_file(data, tmp_path / "c.pt")
    back = read_tensor_file(tmp_path / "c.pt")
    assert back["step"] == 3
    assert torch.equal(back["rng"], data["rng"])
    assert torch.equal(back["nested"][0]["m"], torch.ones(2))


# --- damaged files ----------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path):
    refused(tmp_path / "none.pt", "does not exist")
    refused(tmp_path, "cannot read|not a tensor file")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x80\x02}q\x00.", b"garbage" * 1000, b"\x00" * 99]
)
def test_garbage(tmp_path, content):
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    refused(file, "truncated or not a tensor file")


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        refused(path, "truncated|damaged|not a tensor file")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_flipped_bytes_never_crash(path, data):
    whole = bytearray(path.read_bytes())
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    target = path.with_name("flipped.pt")
    target.write_bytes(broken)
    with contextlib.suppress(BadInput):  # anything else would be a crash
        load(target)


# --- hostile files ----------------------------------------------------------------------------


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize(
    "wrapping", [lambda e: e, lambda e: {"format": "sepdeploy.model", "state_dict": {"w": e}}]
)
def test_a_pickle_that_would_run_code(tmp_path, wrapping):
    marker = tmp_path / "was-here"
    torch.save(wrapping(Runs(marker)), tmp_path / "evil.pt")
    error = refused(tmp_path / "evil.pt", "could run code")
    assert "pickled modules" in error.hint
    assert not marker.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert marker.exists()  # it would have


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "could run code")


def test_a_tiny_file_with_a_huge_tensor(path):
    huge = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    edited(path, lambda d: d["state_dict"].update({"head.weight": huge}))
    assert path.stat().st_size < 20_000
    refused(path, "claims 1000000000000 elements")


def test_many_views_of_one_small_storage(path):
    base = torch.zeros(1000)
    edited(path, lambda d: d["state_dict"].update({f"x{k}": base[:] for k in range(500)}))
    refused(path, "bytes of tensors in")


def meta_tensor():
    return torch.zeros(10**6, 10**6, device="meta")


def sparse_tensor():
    place = torch.zeros(2, 1, dtype=torch.long)
    return torch.sparse_coo_tensor(
        place, torch.ones(1), (10**6, 10**6), check_invariants=True, is_coalesced=True
    )


@pytest.mark.parametrize("make", [meta_tensor, sparse_tensor])
def test_tensors_that_are_no_arrays(path, make):
    edited(path, lambda d: d["state_dict"].update({"head.weight": make()}))
    refused(path, "not a plain array|damaged")


def test_records_that_unpack_to_more_than_the_file(path):
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in records.items():
            archive.writestr(name, value)
        archive.writestr("model/data/99", bytes(10**8))
    refused(path, "more bytes than the file has")


def test_containers_that_hold_themselves(path):
    nested = [torch.zeros(2)]
    for _ in range(100):
        nested = [nested, nested]  # 2^100 paths to one tensor
    circle = {}
    circle["self"] = circle
    edited(path, lambda d: d["provenance"].update({"nested": nested, "circle": circle}))
    assert isinstance(load(path), Model)


def test_options_that_would_build_a_giant(path):
    def widen(data):
        data["arch_kwargs"] = {"classes": 10, "hidden": [2**26] * 20}
        data["layers"] = {}

    refused(edited(path, widen), "do not fit|shape")


def test_layers_that_claim_more_than_the_file(path):
    wide = {"structure": "kron", "in_shape": [8, 8], "out_shape": [4, 4], "terms": 1024}
    refused(edited(path, lambda d: d["layers"].update({"fc1": wide})), "claim more weights")


def test_names_cannot_draw_on_the_terminal(path):
    edited(path, lambda d: d["state_dict"].update({"a\nb\x1b[2Jc": torch.zeros(1)}))
    error = refused(path, "unknown")
    assert error.message.isprintable()


def test_the_file_does_not_choose_the_code(path, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    edited(path, lambda d: d.update(arch="trap:make"))
    error = refused(path, "the user's own \\('trap:make'\\)")
    assert "--arch" in error.hint
    refused(path, "made with 'trap:make', not with 'os:getcwd'", arch="os:getcwd")


# --- files that do not fit --------------------------------------------------------------------


def drop(key):
    return lambda data: data.pop(key)


def put(section, **values):
    return lambda data: data[section].update(values)


def put_top(**values):
    return lambda data: data.update(values)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (put_top(format="other"), "not a sepdeploy model"),
        (put_top(version=99), "version 99"),
        (put_top(arch="mpl"), "unknown architecture 'mpl'; closest: mlp, lenet"),
        (put_top(arch=3), "'arch' is missing or is a int"),
        (put_top(arch_kwargs={"classes": 10, "hiden": [1]}), "unknown option of mlp 'hiden'"),
        (put_top(arch_kwargs={"hidden": [16, 12]}), "cannot be built"),
        (put_top(arch_kwargs={"classes": "ten", "hidden": [16, 12]}), "whole number"),
        (put_top(arch_kwargs={"classes": 10, "hidden": 5}), "list of layer widths"),
        (
            put_top(arch_kwargs={"classes": 10, "hidden": [16, 12], "structure": 7}),
            "structure must",
        ),
        (drop("state_dict"), "'state_dict' is missing"),
        (drop("input"), "'input' is missing"),
        (drop("layers"), "'layers' is missing"),
        (put_top(input={"shape": "x"}), "input.shape"),
        (put_top(input={"shape": [1, 8, 0]}), "positive"),
        (put_top(input={"shape": [1, 8, 8], "std": [0.0]}), "positive"),
        (put_top(input={"shape": [1, 8, 8], "mean": [0.0, 1.0]}), "channels"),
        (put_top(input={"shape": [1, 9, 9]}), "64|81"),
        (put("layers", fc1={"structure": "kron"}), "layer 'fc1': keys"),
        (put("layers", fc1={"structure": "korn"}), "closest: kron"),
        (
            put("layers", fc7={"structure": "dense", "in_features": 1, "out_features": 1}),
            "no linear layer 'fc7'",
        ),
        (put("layers", fc1={"structure": "dense", "in_features": 3, "out_features": 4}), "fc1"),
        (lambda d: d["state_dict"].pop("fc1.bias"), "lacks fc1.bias"),
        (put("state_dict", more=torch.zeros(1)), "has unknown more"),
        (
            put("state_dict", **{"head.bias": torch.zeros(11)}),
            r"'head.bias' is torch.float32 \(11,\)",
        ),
        (put("state_dict", **{"head.bias": torch.zeros(10, dtype=torch.float16)}), "torch.float16"),
        (put("state_dict", **{"head.bias": [0.0] * 10}), "'head.bias' is a list"),
        (
            put("state_dict", **{"head.bias": torch.full((10,), float("nan"))}),
            "'head.bias' holds NaN",
        ),
        (
            put("state_dict", **{"fc2.S": torch.full((3, 3), float("inf"))}),
            "'fc2.S' holds NaN or inf",
        ),
    ],
)
def test_a_file_that_does_not_fit(path, edit, match):
    refused(edited(path, edit), match)


def test_other_tables_and_lists(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "state.pt")
    error = refused(tmp_path / "state.pt", "not a sepdeploy model")
    assert "wrap" in error.hint
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list")


def test_the_wrong_arch_argument(path):
    refused(path, "is a 'mlp', not a 'lenet'", arch="lenet")
    assert load(path, arch="mlp").arch == "mlp"


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
    assert torch.equal(twin(x), model(x))
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
        assert torch.equal(load(tmp_path / "w.pt", arch=name)(x), model(x))


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


def test_folders_that_cannot_be_written(model, tmp_path):
    with pytest.raises(BadInput, match="No such file or directory"):
        save(model, tmp_path / "none" / "m.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Not a directory"):
        save(model, tmp_path / "file" / "m.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="Is a directory"):
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

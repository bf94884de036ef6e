"""Whole networks in every format, flavour and runtime against PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy import measure, models, runtimes
from sepdeploy.exporters.capture.trace import trace
from sepdeploy.exporters.domain import DOMAIN, structured_nodes
from sepdeploy.exporters.graph_layers import graph_layers, graph_macs
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.measure.proof.parity import TOLERANCE, batches_for, compare
from sepdeploy.records import InputSpec

CIFAR = InputSpec((3, 32, 32), mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.21))
NETWORKS = {
    "vgg16_bn": ("vgg16_bn", "kron", {"base": 4, "hidden": (64, 64)}),
    "vgg11": ("vgg11", {"fc*": "lowrank:6"}, {"base": 4, "hidden": (64, 32), "pool": 3}),
    "resnet18": ("resnet18", {"head": "kron"}, {"base": 4, "stem": "large"}),
    "resnet20": ("resnet20", None, {"base": 4}),
    "densenet40": ("densenet40", None, {"growth": 2}),
    "mobilenet_v2": ("mobilenet_v2", None, {"width": 0.1}),
    "shiftresnet20": ("shiftresnet20", None, {"base": 4}),
    "vit": ("vit_tiny", None, {"width": 48, "depth": 2, "patch": 8}),
    "vit_kron": ("vit_b_16", "kron", {"width": 48, "depth": 1, "patch": 8, "heads": 3}),
    "vit_aligned": (
        "vit_tiny",
        {"blocks.*.?": "kron*2+sumbias", "blocks.*.fc?": "lowrank:5"},
        {"width": 48, "depth": 1, "patch": 8, "modes": "aligned"},
    ),
}
# One per Kronecker layer, two for the uneven pool of vgg11, and those of attention.
TRANSPOSES = {
    "vgg16_bn": 2,
    "vgg11": 2,
    "resnet18": 2,
    "resnet20": 0,
    "densenet40": 0,
    "mobilenet_v2": 0,
    "shiftresnet20": 0,
    "vit": 8,
    "vit_kron": 13,
    "vit_aligned": 10,
}
FULL_SIZE = {
    "vgg16-kron": ("vgg16", "kron"),
    "vgg16_bn-dense": ("vgg16_bn", None),
    "resnet18-dense": ("resnet18", None),
    "vit_tiny-kron": ("vit_tiny", "kron"),
    "vit_b_16-dense": ("vit_b_16", None),
}


def trained(arch, spec, classes, structure, **options):
    """A network whose norms and biases are neither 0 nor 1."""
    torch.manual_seed(0)
    model = models.create(arch, spec, classes, structure, **options).eval()
    with torch.no_grad():
        for tensor in (*model.net.parameters(), *model.net.buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.2)
    return model


def outputs(model, n):
    x = np.random.default_rng(0).random((n, *model.input.shape), dtype=np.float32)
    with torch.no_grad():
        parts = [model(torch.from_numpy(x[i : i + 1])) for i in range(n)]
    return x, torch.cat(parts).numpy()


# The others are slow: their layers are in these, too, and whole ones in the cases of full size.
QUICK = ("vgg11", "resnet18", "vit_aligned")


@pytest.fixture(
    scope="module",
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def network(request):
    arch, structure, options = NETWORKS[request.param]
    model = trained(arch, CIFAR, 10, structure, **options)
    return model, trace(model), *outputs(model, 32)


def check(path, x, reference):
    found = {}
    for runtime in runtimes.installed(path.suffix[1:]):
        with runtimes.open(path, runtime) as session:
            for batch in (1, 3, 32):
                parts = [session.run(x[i : i + batch]) for i in range(0, len(x), batch)]
                error, _, follows = compare(np.concatenate(parts), reference)
                found[runtime, batch] = error
                assert follows
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("flavour", ["standard", "custom"])
def test_onnx_files_compute_the_same(network, flavour, tmp_path):
    _, graph, x, reference = network
    path = tmp_path / "n.onnx"
    write_onnx(graph, path, choices=plan(graph, "onnx", flavour=flavour), flavour=flavour)
    check(path, x, reference)


def test_tflite_files_compute_the_same(network, tmp_path, request):
    _, graph, x, reference = network
    write_tflite(graph, tmp_path / "n.tflite", choices=plan(graph, "tflite"))
    check(tmp_path / "n.tflite", x, reference)
    kinds = [op.kind for op in read_tflite(tmp_path / "n.tflite").ops]
    convolutions = [i for i, kind in enumerate(kinds) if kind == "CONV_2D"]
    assert convolutions
    assert "TRANSPOSE" not in kinds[: convolutions[-1]]
    assert kinds.count("TRANSPOSE") == TRANSPOSES[request.node.callspec.params["network"]]


def test_graphs_hold_the_layers_by_name_and_no_shape_arithmetic(network):
    model, graph, _, _ = network
    records = {r.name: r for r in model.layer_records()}
    found = {r.name: r for r in graph_layers(graph)}
    for name in [n for n in found if n == "pool" or n.endswith(".shift")]:
        del found[name]  # matrices of means, one-hot kernels: no weights of the network
    assert found.keys() == records.keys()
    for name, record in records.items():
        assert found[name].macs == record.macs, name
        assert found[name].structure == record.structure
    assert {n.name for n in structured_nodes(graph)} == set(model.structured_layers())
    counts = Counter(n.op_type for n in graph.graph.node if n.domain != DOMAIN)
    token = "class_token" in dict(model.net.named_parameters())
    assert counts["Shape"] == counts["Expand"] == int(token)  # the token of each sample
    assert not {"Where", "Cast", "Range", "GatherND", "Slice"} & counts.keys() or "Pad" in counts
    assert graph_macs(graph) >= sum(r.macs for r in records.values())


@pytest.mark.slow
def test_every_parameter_is_in_the_graph(network):
    model, graph, _, _ = network
    held = {t.name: tuple(t.dims) for t in graph.graph.initializer}
    names = {n for n, _ in model.net.named_parameters()}
    fused = {n for n in names if ".bn" in n or n.startswith("bn") or "downsample.1" in n}
    fused |= {n for n in names if n.split(".")[0] in ("stem", "last") or "se.1." in n}
    fused |= {n for n in names if "expand.1." in n}
    fused |= {n for n in names if n.startswith("features.")}  # norms become the convolutions'
    cores = {n for n in names if n.endswith((".S", ".V"))}
    sums = {n for n in names if ".biases." in n}  # go out as the bias per output that they make
    expected = {n.replace(".factors.", ".F") for n in names - fused - cores - sums}
    expected |= {n.rpartition(".biases.")[0] + ".bias" for n in sums}
    missing = {n for n in expected if n not in held and n.replace(".F", ".factors.") not in held}
    assert missing == set()


def test_attention_counts_among_the_products(network):
    model, graph, _, _ = network
    tokens = getattr(model.net, "positions", None)
    if tokens is None:
        # 32 maps of 2×2 places become 3×3 by one matrix of means per side
        pooling = 32 * (2 * 3 * 2 + 3 * 3 * 2) if model.arch == "vgg11" else 0
        shifts = sum(r.macs for r in graph_layers(graph) if r.name.endswith(".shift"))
        layers = sum(r.macs for r in model.layer_records())
        assert graph_macs(graph) == layers + pooling + shifts
        return
    _, n, width = tokens.shape
    blocks = len(model.net.get_submodule("blocks"))
    attention = 2 * blocks * n * n * width
    assert graph_macs(graph) == sum(r.macs for r in model.layer_records()) + attention


def test_large_networks_are_proven_with_small_batches():
    assert batches_for(10**9) == (1, 3, 32)
    assert batches_for(10**9 + 1) == (1, 3)


@pytest.mark.slow
def test_a_network_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def make(input_shape, classes, width=8):\n"
        "    c = input_shape[0]\n"
        "    return nn.Sequential(nn.Conv2d(c, width, 3, groups=1), nn.SiLU(), nn.Flatten(),\n"
        "                         nn.Linear(width * 36, 64), nn.GELU(), nn.Linear(64, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = models.create("own_net:make", InputSpec((3, 8, 8)), 5, {"3": "kron"}, width=4).eval()
    models.save(model, tmp_path / "own.pt")
    manifest = sd.export(tmp_path / "own.pt", arch="own_net:make", eval_pack=False)
    assert {layer.name: layer.structure for layer in manifest.layers} == {
        "0": "dense",
        "3": "kron",
        "5": "dense",
    }
    assert all(p.passed for a in manifest.artifacts for p in a.parity)


def test_a_wrapped_module(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Hardswish(), nn.Flatten())
    model = sd.wrap(nn.Sequential(net, nn.Linear(256, 3)), (3, 8, 8)).eval()
    manifest = sd.export(model, tmp_path / "wrapped", eval_pack=False)
    assert [a.format for a in manifest.artifacts] == ["onnx", "tflite"]


# --- full size


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size(name, tmp_path):
    arch, structure = FULL_SIZE[name]
    model = trained(arch, InputSpec((3, 224, 224)), 1000, structure)
    graph = trace(model)
    batches = batches_for(graph_macs(graph))
    x, reference = outputs(model, max(batches))
    del model
    for path in (tmp_path / "n.onnx", tmp_path / "n.tflite"):
        choices = plan(graph, path.suffix[1:])
        (write_onnx if path.suffix == ".onnx" else write_tflite)(graph, path, choices=choices)
        found = measure.check_parity(path, x, reference, batches=batches)
        assert {p.batch for p in found} == set(batches)
        assert max(p.max_rel for p in found) <= TOLERANCE
        path.unlink()


MEMORY = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import sepdeploy as sd
from sepdeploy import models
from sepdeploy.records import InputSpec

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

folder = Path(sys.argv[1])
if sys.argv[2] == "make":
    model = models.create("vgg16", InputSpec((3, 224, 224)), 1000, "kron")
    models.save(model, folder / "vgg16.pt")
    sys.exit()
tiny = models.create("lenet", InputSpec((1, 28, 28)), 10, "kron").eval()
sd.export(tiny, folder / "tiny", eval_pack=False)  # everything that is imported late
del tiny
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
sd.export(folder / "vgg16.pt", eval_pack=False)
print((status("VmHWM") - before) / (folder / "vgg16.pt").stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_exporting_takes_little_memory(tmp_path):
    for step in ("make", "export"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path), step],
            capture_output=True,
            text=True,
            check=True,
        )
    # 3.0 to 3.4 by the allocator's mood: the model once, its graph, and 35 images of 224 x 224
    assert float(done.stdout.split()[-1]) <= 4.0

"""The cost model: how long an operation should take on a device.

A kernel-class roofline (devices are told apart by their peak rate and bandwidth, operations by
their class) plus a fixed cost a node::

    t = Σ macs · 2 / peak · c(class)  +  activation bytes / BW · c_a  +  weight bytes / BW · c_w
        + nodes · instructions a node / (clock · width)

The coefficients are fitted to published latencies by ``benchmarks.estimate``. They are at least 1
where a smaller one would beat the machine (every multiply-add at its peak rate, every weight read
once). ``c_a`` is large because activations stand for everything that scales with them: packing,
padding and cache misses. What computing and memory cost on a family of cores in a number format is
a factor to them (``calibration``).
"""

from __future__ import annotations

from dataclasses import dataclass

from sepdeploy.devices.estimate.calibration import calibration
from sepdeploy.devices.estimate.op import Op
from sepdeploy.devices.profile import Cluster, DeviceProfile
from sepdeploy.errors import AT_LEAST_ONE, BadInput, Incomparable

MODEL = "kernel-roofline-2"
FEATURES = ("pointwise", "spatial", "depthwise", "activations", "weights")
# Instructions that a runtime spends on a node beside its loops: what a two-layer perceptron takes
# in ONNX Runtime under emulation (64,472 for 784-128-10) less its 25,440 vector multiply-adds and
# as many loads, over its nodes.
NODE_INSTRUCTIONS = 7000
SMALLEST_FITTED_MACS = 1_000_000  # no convolution of the fitted networks is smaller

Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class Machine:
    """What of a device counts: rates of the cores that work, in operations and bytes a second.

    ``scalar`` are instructions a second of the fastest core.
    """

    fp32: float
    fp16: float
    int8: float
    bandwidth: float
    scalar: float
    threads: int

    def peak(self, dtype: str) -> float:
        """Return the rate for a number format, two operations a multiply-add."""
        return {"fp32": self.fp32, "fp16": self.fp16, "int8": self.int8}[dtype]


def machine(profile: DeviceProfile, threads: int = 1) -> Machine:
    """Return what ``threads`` threads can use of a device, on its fastest cores.

    Raises:
        BadInput: Fewer than one thread.
        Incomparable: The profile does not say enough.
    """
    if threads < 1:
        raise BadInput(f"threads must be at least 1, found {threads}", hint=AT_LEAST_ONE)
    if not profile.cluster or profile.memory is None:
        raise Incomparable(
            f"device {profile.id}: its profile has no cores and memory to estimate from",
            hint="choose another --device, or add [[cluster]] and [memory] to your profile",
        )
    cores: list[Cluster] = [c for cluster in profile.cluster for c in [cluster] * cluster.count]
    cores = cores[:threads]
    first = cores[0]
    return Machine(
        fp32=sum(c.ghz * c.fp32_flop_cycle for c in cores) * 1e9,
        fp16=sum(c.ghz * c.fp32_flop_cycle * (2 if c.fp16 else 1) for c in cores) * 1e9,
        int8=sum(c.ghz * c.int8_mac_cycle * 2 for c in cores) * 1e9,
        bandwidth=profile.memory.bw_gbs * 1e9,
        scalar=first.ghz * 1e9 * max(1.0, first.fp32_flop_cycle / 8),
        threads=len(cores),
    )


def features(op: Op, on: Machine, *, winograd: bool = False) -> Coefficients:
    """Return what the coefficients are multiplied with, in milliseconds, in order of FEATURES.

    Args:
        op: The operation.
        on: The machine.
        winograd: Whether the runtime computes 3×3 convolutions with fewer multiplications, as
            that of the fitted table does. ONNX Runtime and LiteRT do not on ARM: they multiply
            matrices, which counts as a 1×1 convolution.
    """
    compute = 2e3 * op.macs / on.peak(op.dtype)
    column = {"depthwise": 2, "conv3x3": 1, "conv": 1}.get(op.kind, 0)
    if column == 1 and not winograd:
        column = 0
    row = [0.0] * len(FEATURES)
    row[column] = compute
    if not op.fused:
        row[3] = 1e3 * op.activation_bytes / on.bandwidth
    row[4] = 1e3 * op.weight_bytes / on.bandwidth
    return tuple(row)


def overhead_ms(op: Op, on: Machine) -> float:
    """Return the cost of a node beside its loops, in milliseconds."""
    return 0.0 if op.fused else 1e3 * NODE_INSTRUCTIONS / on.scalar


def is_fitted(op: Op, core: str) -> bool:
    """Whether the loops of an operation belong to the classes that were fitted.

    Those in 32-bit floating point are on every core; others where published latencies say so.
    """
    if op.dtype != "fp32" and not calibration().covers(core, op.dtype):
        return False
    if op.kind in ("conv1x1", "conv3x3", "conv", "depthwise", "elementwise"):
        return True
    return op.kind == "matmul" and op.macs >= SMALLEST_FITTED_MACS


def coefficients(threads: int) -> Coefficients:
    """Return the coefficients for a number of threads, straight between the fitted ones."""
    first, *_, last = calibration().base
    share = min(max(threads - first.threads, 0) / (last.threads - first.threads), 1.0)
    return tuple(
        (1 - share) * float(getattr(first, name)) + share * float(getattr(last, name))
        for name in FEATURES
    )


def cost_ms(
    weights: Coefficients, row: Coefficients, by: tuple[float, float]
) -> tuple[float, float]:
    """Return the milliseconds that computing and memory take.

    Args:
        weights: The coefficients.
        row: See ``features``.
        by: The factors of computing and memory.
    """
    terms = [c * x for c, x in zip(weights, row, strict=True)]
    return by[0] * sum(terms[:3]), by[1] * sum(terms[3:])

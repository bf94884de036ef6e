"""What was learnt from published latencies: coefficients, and how far they are to be believed.

``calibration.toml`` is written by ``python -m benchmarks.estimate.fit``: coefficients by number
of threads, two factors for each family of cores and number format (what computing and what memory
cost there, against the coefficients), and a claim wherever enough networks were published, each
estimated by constants that saw none of its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from sepdeploy.codec import from_json, parse_toml

# Which cores are alike, the one that was fitted first.
FAMILIES = {
    "in-order": ("cortex-a53", "cortex-a35", "cortex-a55", "cortex-a510"),
    "a72": ("cortex-a72", "cortex-a57", "cortex-a73"),
    "a76": (
        "cortex-a76", "cortex-a75", "cortex-a77", "cortex-a78", "cortex-a710", "cortex-a715",
        "cortex-x1", "cortex-x2", "cortex-x3",
    ),
}  # fmt: skip
# Whose kernels a runtime computes with; what was measured of others is no evidence of it. Most
# published latencies of TFLite are of its built-in kernels (ruy), which are not the default today:
# both of MobileNet in XNNPACK on a Pi 4 lie outside what holds 80 % of those.
KERNELS = {
    "litert": ("xnnpack",),
    "tflite-runtime": ("xnnpack",),
    "onnxruntime": ("mlas",),
}
FITTED_CORES = ("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76")


@dataclass(frozen=True)
class Base:
    """The coefficients at a number of threads, fitted to ``rows`` latencies."""

    threads: int
    rows: int
    pointwise: float
    spatial: float
    depthwise: float
    activations: float
    weights: float


@dataclass(frozen=True)
class Factors:
    """What computing and memory cost on a family of cores in a format, against the base."""

    family: str
    dtype: str
    rows: int
    compute: float
    memory: float


@dataclass(frozen=True)
class Claim:
    """How well latencies were met that the constants had not seen.

    Attributes:
        family: Of cores.
        dtype: Number format.
        threads: Of the runtime.
        kernels: Whose latencies they are: "ruy, xnnpack".
        rows: How many.
        networks: Of how many architectures; each was left out as a whole.
        mean_error: Mean of the relative errors.
        within: The factor that holds 80 % of them.
        worst: The factor that holds all.
    """

    family: str
    dtype: str
    threads: int
    kernels: str
    rows: int
    networks: int
    mean_error: float
    within: float
    worst: float

    @property
    def sentence(self) -> str:
        """What was shown, for readers."""
        return (
            f"80 % of {self.rows} published latencies ({self.networks} architectures, "
            f"{self.family} cores, {self.dtype}, threads: {self.threads}, kernels of "
            f"{self.kernels}) within ×/÷{self.within:.2f}, each architecture left out of the fit"
        )


@dataclass(frozen=True)
class Calibration:
    """The whole table."""

    model: str
    base: tuple[Base, ...]
    factors: tuple[Factors, ...]
    claims: tuple[Claim, ...]

    def claim(self, core: str, dtype: str, threads: int, runtime: str) -> Claim | None:
        """Return what is claimed of a runtime on a core.

        Between two numbers of threads that is the weaker of both claims.
        """
        if core not in FITTED_CORES:
            return None
        known = {
            c.threads: c
            for c in self.claims
            if (c.family, c.dtype) == (family_of(core), dtype)
            and set(c.kernels.split(", ")) <= set(KERNELS.get(runtime, ()))
        }
        fitted = [b.threads for b in self.base]
        low = max((t for t in fitted if t <= threads), default=fitted[0])
        high = min((t for t in fitted if t >= threads), default=fitted[-1])
        if low not in known or high not in known:
            return None
        return max(known[low], known[high], key=lambda c: c.within)

    def covers(self, core: str, dtype: str) -> bool:
        """Whether latencies in a format were met on cores of this kind, whatever the runtime."""
        known = {(c.family, c.dtype) for c in self.claims}
        return core in FITTED_CORES and (family_of(core), dtype) in known

    def factors_of(self, core: str, dtype: str) -> tuple[float, float]:
        """Return the factors of computing and memory; 1 where nothing is known."""
        for row in self.factors:
            if (row.family, row.dtype) == (family_of(core), dtype):
                return row.compute, row.memory
        return 1.0, 1.0


def family_of(core: str) -> str:
    """Return the family of a core, "" of one that is unknown."""
    return next((name for name, cores in FAMILIES.items() if core in cores), "")


@cache
def calibration() -> Calibration:
    """Return the packaged table."""
    name = "calibration.toml"
    text = (resources.files("sepdeploy.devices") / "estimate" / name).read_text(encoding="utf-8")
    return from_json(Calibration, parse_toml(text, where=name), where=name)

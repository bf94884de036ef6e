"""How the weights and activations of a file may be stored: one row a mode of quantisation."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-5  # of float32 logits
# 2^-11 is float16's rounding of one weight; a deep net of such weights was measured at 0.004.
HALF_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Mode:
    """One row of the table of quantisations.

    Attributes:
        name: As written on the command line and in manifests.
        calibrated: Training images are used, where there are some.
        needs_images: Without them there is no such file.
        integer: Values are rounded to int8: a file is judged by its distance from the model
            (``measure.proof.int8_parity``), not by the largest difference.
        tolerance: Largest max|Δlogit| / max|reference logit| of a file that is not ``integer``.
        falls_back: A file that is not the model gives way to the float one.
        hint: What to do where a file of this mode is not the model.
    """

    name: str
    calibrated: bool = False
    needs_images: bool = False
    integer: bool = False
    tolerance: float = TOLERANCE
    falls_back: bool = False
    hint: str = "report this model, it must export correctly"

    @property
    def quantized(self) -> bool:
        """Whether anything is stored at less than float32."""
        return self.integer or self.tolerance > TOLERANCE


_OTHERWISE = "try --quantize dynamic, or more --calibration-samples"

MODES: dict[str, Mode] = {
    m.name: m
    for m in (
        Mode("none"),
        Mode("dynamic", integer=True, hint=_OTHERWISE),
        Mode("static", calibrated=True, needs_images=True, integer=True, hint=_OTHERWISE),
        Mode("auto", calibrated=True, integer=True, falls_back=True, hint=_OTHERWISE),
        Mode("fp16", tolerance=HALF_TOLERANCE),
    )
}

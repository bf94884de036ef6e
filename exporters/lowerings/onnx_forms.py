"""The table of ONNX forms, and what each is estimated to cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sepdeploy.exporters.lowerings.emit import Emitter, Weight
from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.exporters.lowerings.onnx_kron import gemm2d
from sepdeploy.exporters.lowerings.onnx_simple import two_gemm
from sepdeploy.structures import Spec

OnnxBuilder = Callable[[Emitter, Any, str, Sequence[Weight], Weight], str]


def _never(spec: Spec) -> str:
    return ""


def _free(spec: Spec) -> float:
    return 0.0


ONNX_FORMS: dict[str, tuple[Form[OnnxBuilder], ...]] = {
    "kron": (Form("gemm2d", _never, _free, gemm2d),),
    "lowrank": (Form("gemm2", _never, _free, two_gemm),),
}

"""The table of TFLite forms as the planner sees it; the writer builds them by name."""

from __future__ import annotations

from sepdeploy.exporters.lowerings.form import Form
from sepdeploy.structures import Spec


def _never(spec: Spec) -> str:
    return ""


def _free(spec: Spec) -> float:
    return 0.0


TFLITE_FORMS: dict[str, tuple[Form[None], ...]] = {
    "kron": (Form("fc_t", _never, _free, None),),
    "lowrank": (Form("fc", _never, _free, None),),
}

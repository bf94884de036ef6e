"""Optional native kernels for the ops of ``ai.sepdeploy``, built on this machine on demand.

The C++ sources ship with the package; ``build_native`` compiles them into the user's cache, and
only a library that was built there is ever loaded. Everything works without them: an ONNX file
carries function bodies, a TFLite file has a standard sibling.
"""

from __future__ import annotations

from sepdeploy.runtimes.native.build import build_native
from sepdeploy.runtimes.native.claims import Claim, claim_onnx, claim_tflite
from sepdeploy.runtimes.native.library import NativeStatus, native_status

__all__ = [
    "Claim",
    "NativeStatus",
    "build_native",
    "claim_onnx",
    "claim_tflite",
    "native_status",
]

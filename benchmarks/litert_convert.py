"""One conversion by litert-torch, in an interpreter that has it.

``PYTHON -m benchmarks.litert_convert model.pt out.tflite`` prints one line of JSON: the processor's
seconds that conversion and writing took (``convert_s``), imports and loading not counted, and the
versions. Nothing of sepdeploy but its models is imported, so that it needs torch and litert-torch.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main(source: str, target: str) -> int:
    import litert_torch
    import torch

    from sepdeploy.models import load

    model = load(Path(source)).eval()
    shape = model.input.shape
    sample = torch.rand(1, *shape)
    start = time.process_time()
    module: torch.nn.Module = model
    if len(shape) == 3:  # channels last, as it recommends for images
        module = litert_torch.to_channel_last_io(model, args=[0]).eval()
        sample = sample.permute(0, 2, 3, 1)
    litert_torch.convert(module, (sample,)).export(target)
    found = {"convert_s": time.process_time() - start, "bytes": Path(target).stat().st_size}
    versions = {name: version(name) for name in ("litert-torch", "torch")}
    print(json.dumps({**found, "versions": versions}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

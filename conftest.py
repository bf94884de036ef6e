"""Make `sepdeploy.exporters`, `.runtimes` and `.devices` importable from a bare clone."""

from importlib.util import find_spec
from pathlib import Path

import sepdeploy

if find_spec("sepdeploy.exporters") is None:
    sepdeploy.__path__.append(str(Path(__file__).resolve().parent))

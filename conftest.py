"""Make `sepdeploy.exporters`, `.runtimes` and `.devices` importable from a bare clone."""

import signal
from importlib.util import find_spec
from pathlib import Path

import sepdeploy

# A shell starts background jobs with Ctrl-C ignored, and so are their children; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if find_spec("sepdeploy.exporters") is None:
    sepdeploy.__path__.append(str(Path(__file__).resolve().parent))

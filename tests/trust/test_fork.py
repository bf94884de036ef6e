"""A process that forks while another thread runs a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sepdeploy.runtimes import versions

SCRIPT = """
import os, sys, threading, time
import numpy as np
import sepdeploy
sepdeploy.__path__.append(sys.argv[4])
import sepdeploy as sd

session = sd.open(sys.argv[1], runtime=sys.argv[2], threads=int(sys.argv[3]))
batch = np.full((64, *session.input.shape), 0.5, np.float32)
expected = session.run(batch)
go_on = True

def work():
    while go_on:
        session.run(batch)

threading.Thread(target=work).start()
said = []
for _ in range(10):
    child = os.fork()
    if not child:
        try:
            np.testing.assert_allclose(session.run(batch), expected, rtol=1e-5)
            os._exit(0)
        except sd.BadInput as error:
            os._exit(2 if "forked" in error.message else 3)
    for _ in range(1000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        status = 99 << 8
    said.append(os.waitstatus_to_exitcode(status))
go_on = False
print(sorted(set(said)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "tflite-runtime"])
@pytest.mark.parametrize(
    ("threads", "codes"), [(1, "[0]"), pytest.param(2, "[2]", marks=pytest.mark.slow)]
)
def test_a_child_runs_the_session_or_is_told_and_never_hangs(
    exported: Path, runtime: str, threads: int, codes: str
) -> None:
    if runtime not in versions():
        pytest.skip(f"no {runtime} here")
    file = exported / ("tiny.onnx" if runtime == "onnxruntime" else "tiny.tflite")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), runtime, str(threads), root],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip() == codes, done.stderr

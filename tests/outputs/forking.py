"""Commands as processes of their own, forked from one that has imported everything already.

Reads one JSON list a line: ["start", words, folder, temporary folder, file for standard error]
answers the process id, ["wait", id] the exit status (negative: the signal that ended it).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile


def child(words: list[str], folder: str, temporary: str, said: str) -> None:
    """Run one command line and end."""
    from sepdeploy.cli import run

    os.setsid()
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 99
    try:
        code = run(words)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer until standard input ends."""
    import torch

    import sepdeploy.workflows.bench.benching
    import sepdeploy.workflows.demonstration as demonstration
    import sepdeploy.workflows.exporting
    import sepdeploy.workflows.training
    from sepdeploy import data

    torch.set_num_threads(1)
    data.load("digits")
    # The whole way of the demonstration, with less to wait for.
    demonstration.RECIPE |= {"steps": 1, "epochs": 1}
    demonstration.NETS = {"kron": {"structure": "kron", "hidden": (64, 64)}}
    assert sepdeploy
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        if verb == "start":
            answer = os.fork()
            if not answer:
                child(*rest)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(rest[0], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

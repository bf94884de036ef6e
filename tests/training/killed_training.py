"""A training that kills itself with SIGKILL, run as a child process by the tests.

Arguments: JSON with "recipe", "out", "resume", "every" (seconds between checkpoints), "kill_at"
([epoch, step], or null).
"""

import json
import os
import signal
import sys
from pathlib import Path

from sepdeploy.training import fit, load_recipe


def main():
    job = json.loads(sys.argv[1])
    started = False

    def watch(event):
        nonlocal started
        if event.kind == "step" and not started:
            started = True
            print("training", flush=True)
        if event.kind == "step" and [event.epoch, event.step] == job["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(
        load_recipe(None, job["recipe"]),
        out=Path(job["out"]),
        resume=job["resume"],
        on_progress=watch,
        checkpoint_every_s=job["every"],
    )


if __name__ == "__main__":
    main()

"""An attack that kills itself with SIGKILL before a batch, run as a child process by the tests.

Arguments: the model, the set, the number of that batch over all legs, then words for the command.
"""

import os
import signal
import sys

from sepdeploy import api
from sepdeploy.cli import run
from sepdeploy.exports import judged_images
from sepdeploy.threat import ATTACKS, Row
from sepdeploy.workflows import unfinished


def main():
    model, out, last, *words = sys.argv[1:]
    seen = []
    plain = api.attack

    def attack(*them, on_progress, **options):
        def watch(news):
            seen.append(news)
            if len(seen) == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            on_progress(news)

        return plain(*them, on_progress=watch, **options)

    api.attack = attack
    judged_images.BATCH = 16
    ATTACKS["duo"] = Row("duo", members=("apgd-ce-9", "apgd-t-5"))
    unfinished.SAVE_EVERY_S = 0.0
    sys.exit(run(["attack", model, "-o", out, *words]))


if __name__ == "__main__":
    main()

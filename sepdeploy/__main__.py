"""``sepdeploy`` and ``python -m sepdeploy``: a process around one command line."""

import io
import signal
import sys

from sepdeploy.signals import ENDING, Interruption


def main() -> None:
    """Run the command line of this process and end with its exit code."""
    with Interruption() as interruption:
        try:
            from sepdeploy.cli import run

            for stream in (sys.stdout, sys.stderr):
                # A terminal or file that cannot hold "×" or "é" shows another sign instead.
                if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                    stream.reconfigure(errors="replace")
            code = run()
        except KeyboardInterrupt:  # before the command line could see it
            number = interruption.seen or signal.SIGINT
            sys.stderr.write(f"error: {ENDING[number]}\n")
            code = 128 + number
    if code > 128:
        # CPython holds a Ctrl-C that fell into text given to exec (a dataclass of a library that
        # is being imported) for unhandled even where it was caught, and `python -m` then dies of
        # SIGINT instead of ending with our code. Running any other text clears that mark.
        exec("")
    sys.exit(code)


if __name__ == "__main__":
    main()

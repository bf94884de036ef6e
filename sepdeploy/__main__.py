"""``sepdeploy`` and ``python -m sepdeploy``: a process around one command line."""

import io
import sys


def main() -> None:
    """Run the command line of this process and end with its exit code."""
    try:
        from sepdeploy.cli import run

        for stream in (sys.stdout, sys.stderr):
            # A terminal or file that cannot hold "×" or "é" shows another sign instead.
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="replace")
        code = run()
    except KeyboardInterrupt:  # before the command line could see it
        sys.stderr.write("error: interrupted\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()

"""Stop early, in one line, when the interpreter is too old."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file exists for older interpreters
    found = ".".join(str(n) for n in sys.version_info[:2])
    sys.exit("sepdeploy needs Python 3.11 or newer; this is " + found + " (set PYTHON=python3.11)")

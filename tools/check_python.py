"""Stop early, in one line, when the interpreter is too old."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file exists for older interpreters
    sys.exit(
        "sepdeploy needs Python 3.11 or newer; this is %d.%d (set PYTHON=python3.11)"
        % sys.version_info[:2]
    )

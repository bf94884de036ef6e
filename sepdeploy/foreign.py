"""Text from elsewhere made fit to be shown: the one filter for every channel but JSON.

Names of files, layers and devices and the words of other programs may carry anything: escapes
that move a terminal's cursor, line breaks that make lines of their own, signs that turn the
direction of writing, and what build services take for commands.
"""

from __future__ import annotations

import re

# `::error::` and `::stop-commands::` (GitHub), `##[error]` and `##vso[` (Azure), `##teamcity[`.
_COMMAND = re.compile(r"(?<![\w)>\]])::(?=\s*[A-Za-z])|##(?=\w*\[)")


def printable(text: str) -> str:
    """Return a text as one line that no terminal and no build service reads as a command.

    White space of every kind becomes a space, what cannot be printed a replacement character. No
    text of a usual kind changes ("torch::Tensor" stays).
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _stand_in(c) for c in text)
    return _COMMAND.sub(lambda found: " ".join(found[0]), text)


def _stand_in(sign: str) -> str:
    return " " if sign.isspace() else "\N{REPLACEMENT CHARACTER}"

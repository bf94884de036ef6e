"""What an emulated inference executed: blocks of instructions and events of the caches."""

from __future__ import annotations

from dataclasses import dataclass

from sepdeploy.errors import ANSWER, BadInput

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Events:
    """Lines of 64 bytes that L1D lacked, by where they were found, and other events.

    Those of a stream are told from those alone, whose latency nothing hides. ``written`` are lines
    that went back to memory.
    """

    l2: int
    l2_alone: int
    l3: int
    l3_alone: int
    memory: int
    memory_alone: int
    written: int
    l1i_misses: int
    mispredicted: int


@dataclass(frozen=True)
class Executed:
    """One inference: how often each block ran, as its instructions' words, and the events."""

    blocks: tuple[tuple[int, tuple[int, ...]], ...]
    events: Events


def parse_blocks(text: str) -> Executed:
    """Read what the recording plugin wrote.

    Raises:
        BadInput: It is cut off.
    """
    lines = text.splitlines()
    try:
        if lines[-1].split()[0] != "end" or len(lines) < 3:
            raise ValueError
        events = Events(*map(int, lines[0].split()))
        blocks = tuple(_block(line) for line in lines[1:-1])
    except (ValueError, IndexError, TypeError) as error:
        raise BadInput("the record of executed blocks is cut off", hint=ANSWER) from error
    return Executed(blocks, events)


def _block(line: str) -> tuple[int, tuple[int, ...]]:
    count, code = line.split()
    return int(count), tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8))


def signature(word: int) -> int:
    """Return an A64 instruction without its registers and distances: what decides its ports.

    The groups are those of the architecture manual's bits 28:25.
    """
    group = word >> 25 & 15
    if group & 5 == 4:  # loads and stores: pairs, one with an offset, one otherwise, structures
        form = word >> 27 & 7
        if form == 5 or (form == 7 and word >> 24 & 1):
            return word & 0xFFC00000
        if form == 7:
            return word & 0xFFE00C00
        return word & 0xFF000000 if form & 3 == 3 else word & 0xFFE0FC00
    if group in (8, 9):  # arithmetic with constants
        return word & 0xFF800000
    if group in (10, 11):  # branches and system
        return word & (0xFFE00000 if word >> 24 in (0xD5, 0xD6) else 0xFF000000)
    plain = word >> 24 & 0x1F == 0x0A or (word >> 24 & 0x1F == 0x0B and not word >> 21 & 1)
    if group & 7 == 5 and plain:
        return word & 0xFFE00000 | (0x400 if word >> 10 & 0x3F else 0)  # shifted operands or not
    if group & 7 == 7:
        if word >> 21 & 1 and word >> 10 & 3 == 2 and word >> 17 & 7 == 0:  # of one register
            return word & 0xFFFFFC00
        if word >> 23 & 0x3F == 0b011110 and word >> 10 & 1:  # shifts by constants
            return word & 0xFFF8FC00
    return word & 0xFFE0FC00

"""Seeds out of whole numbers, by the hash SplitMix64 (Steele, Lea, Flood 2014)."""

from __future__ import annotations

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
WORD = (1 << 64) - 1


def derive_seed(*parts: int) -> int:
    """Hash integers (a seed, an epoch, a restart, ...) into one seed, 0 <= seed < 2**63."""
    state = 0
    for part in parts:
        z = (state + GOLDEN + (part & WORD)) & WORD
        z = ((z ^ (z >> 30)) * FIRST) & WORD
        z = ((z ^ (z >> 27)) * SECOND) & WORD
        state = z ^ (z >> 31)
    return state >> 1

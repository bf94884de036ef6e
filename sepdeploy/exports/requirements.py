"""Optional parts that a command needs: present, or one line saying how to get them."""

from __future__ import annotations

from importlib.util import find_spec

from sepdeploy.errors import Missing


def require_torch(purpose: str) -> None:
    """Check that torch is installed, without importing it.

    Raises:
        Missing: torch is absent.
    """
    if find_spec("torch") is None:
        raise Missing(
            f"torch is needed to {purpose} and is not installed",
            hint="pip install 'sepdeploy[train]'",
        )


def has_torch() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None

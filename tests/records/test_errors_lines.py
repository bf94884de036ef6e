"""What every error of the tool promises: one printable line of bounded length."""

from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import MAX_LINE, BadInput


@given(st.text(max_size=50), st.integers(1, 200), st.text(max_size=50))
def test_messages_are_one_printable_line(piece: str, times: int, hint: str) -> None:
    error = BadInput(piece * times, hint=hint)
    for text in (error.message, error.hint):
        assert len(text) <= MAX_LINE
        assert all(c.isprintable() for c in text)

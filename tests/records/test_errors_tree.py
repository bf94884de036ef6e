"""The error tree: exit codes that scripts rely on, one line, always a next step."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy import errors
from sepdeploy.errors import SepdeployError, unknown_name

TREE = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, SepdeployError)]


def test_exit_codes_are_the_promised_ones() -> None:
    assert {e.__name__: e.exit_code for e in TREE} == {
        "SepdeployError": 70, "BadInput": 2, "Incomparable": 3, "Missing": 4, "Unstable": 5,
        "ArtifactCheckFailed": 6, "ToldElsewhere": 2, "NoRoom": 2,
    }  # fmt: skip


@pytest.mark.parametrize("cls", TREE)
def test_an_error_travels_to_another_process(cls: type[SepdeployError]) -> None:
    found = pickle.loads(pickle.dumps(cls("what happened", hint="what to do")))
    assert (type(found), found.message, found.hint) == (cls, "what happened", "what to do")


@pytest.mark.parametrize("cls", TREE)
@given(message=st.text(), hint=st.text())
def test_nothing_out_of_a_file_reaches_the_terminal_unprintable(
    cls: type[SepdeployError], message: str, hint: str
) -> None:
    error = cls(message, hint=hint)
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert len(error.message) == len(message)
    assert str(error) == error.message


@pytest.mark.parametrize("cls", TREE)
def test_there_is_no_next_step_that_fits_every_error(cls: type[SepdeployError]) -> None:
    assert cls("what", hint="do this").hint == "do this"
    with pytest.raises(TypeError):
        cls("what")


def test_an_unknown_name_is_answered_with_the_three_closest() -> None:
    known = ["onnxruntime", "litert", "tflite-runtime", "zzz"]
    error = unknown_name("runtime", "onxruntime", known)
    assert error.exit_code == 2
    assert error.message == (
        "unknown runtime 'onxruntime'; closest: onnxruntime, tflite-runtime, litert"
    )
    assert error.hint == "known: litert, onnxruntime, tflite-runtime, zzz"
    assert unknown_name("runtime", "x", [], hint="install one").hint == "install one"
    assert "closest" not in unknown_name("runtime", "x", []).message

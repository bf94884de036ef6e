"""Records through JSON and back, and everything that may stand in a JSON document instead."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepdeploy import records
from sepdeploy.codec import dump, from_json, parse, to_json
from sepdeploy.errors import BadInput
from sepdeploy.records import (
    BENCH_SCHEMA,
    BenchReport,
    InputSpec,
    Kind,
    LayerRecord,
    Measurement,
    Parity,
    Result,
)

RECORDS = [
    cls
    for cls in vars(records).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls is not InputSpec
]
TEXT = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)

INPUTS = st.builds(
    InputSpec,
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    std=st.lists(st.floats(0.1, 9.0), min_size=1, max_size=3).map(tuple),
    mean=st.lists(FINITE, min_size=1, max_size=3).map(tuple),
    class_names=st.lists(TEXT, max_size=2).map(tuple),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of one type hint as records use them; no float that JSON cannot hold."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is InputSpec:
        return INPUTS
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        fields = {name: values(inner) for name, inner in hints.items()}
        if hint is Measurement:  # details stand beside the fields and must differ from them
            fields["details"] = st.dictionaries(TEXT.map(lambda t: f"x{t}"), JSON, max_size=3)
        return st.builds(hint, **fields)
    if origin is types.UnionType:
        return st.one_of([values(a) for a in args])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin is dict:
        return st.dictionaries(TEXT, JSON if args[1] is Any else values(args[1]), max_size=3)
    simple = {type(None): st.none(), str: TEXT, int: st.integers(), float: FINITE,
              bool: st.booleans(), Kind: st.sampled_from(Kind)}  # fmt: skip
    return simple[hint]


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_every_record_survives_json(cls: type, data: st.DataObject) -> None:
    record = data.draw(values(cls))
    text = dump(record)
    assert from_json(cls, json.loads(text)) == record
    assert dump(from_json(cls, json.loads(text))) == text


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=50)
@given(value=JSON)
def test_any_other_json_is_bad_input_and_nothing_else(cls: type, value: Any) -> None:
    try:
        from_json(cls, value, where="file")
    except BadInput as error:
        message = error.message
    else:
        message = "file"  # every field of the record has a default
    assert "file" in message


@given(text=st.text() | st.binary())
def test_any_document_is_bad_input(text: str | bytes) -> None:
    with pytest.raises(BadInput, match="file"):
        parse(BenchReport, text, where="file")


@given(data=st.data())
def test_one_wrong_value_is_named_by_its_path(data: st.DataObject) -> None:
    good = to_json(LayerRecord("fc1", "kron", ((1, 2, 3),), 6, 36, 12, 36))
    key = data.draw(st.sampled_from(sorted(good)))
    wrong = data.draw(st.sampled_from([object, [1.5], "text", True, {"a": 1}]))
    wrong = {} if wrong is object else wrong
    try:
        from_json(LayerRecord, good | {key: wrong}, where="manifest")
    except BadInput as error:
        message = error.message
    else:
        message = ""
    if message:
        assert message.startswith(f"manifest: {key}")
    else:
        assert (key, type(wrong)) in {("name", str), ("structure", str), ("spec", dict)}


def test_depth_bombs_are_bad_input() -> None:
    with pytest.raises(BadInput, match="not valid JSON"):
        parse(BenchReport, "[" * 100_000, where="file")


@pytest.mark.parametrize(
    "text", ["{}", '{"schema": "sepdeploy.bench/2"}', '{"schema": ["sepdeploy.bench/1"]}']
)
def test_another_schema_is_refused_with_both_names(text: str) -> None:
    with pytest.raises(BadInput, match=r"sepdeploy\.bench/1"):
        parse(BenchReport, text, where="file")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(BadInput, match="'tool' is missing"):
        parse(BenchReport, f'{{"schema": "{BENCH_SCHEMA}"}}', where="file")


def test_the_schema_comes_first_and_numbers_stay_what_they_are() -> None:
    report = BenchReport({"name": "x"}, {}, ())
    assert next(iter(json.loads(dump(report)))) == "schema"
    m = Measurement("params", 3, "parameters", Kind.STATIC)
    assert type(from_json(Measurement, to_json(m)).value) is int
    assert type(from_json(Measurement, to_json(dataclasses.replace(m, value=3.0))).value) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_becomes_null(value: float) -> None:
    assert to_json(Measurement("x", value, "1", Kind.HOST))["value"] is None


def test_details_stand_flat_beside_the_fields_and_may_not_hide_them() -> None:
    m = Measurement("x", 1.0, "ms", Kind.HOST, details={"mad": 0.5})
    assert to_json(m)["mad"] == 0.5
    assert from_json(Measurement, to_json(m)).details == {"mad": 0.5}
    with pytest.raises(ValueError, match="unit"):
        to_json(dataclasses.replace(m, details={"unit": "s"}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"ci": [1.0]}, "expected 2 values, found 1"),
        ({"ci": 3}, "expected a list"),
        ({"kind": "GUESSED"}, "not one of"),
        ({"n": True}, "expected int, found bool"),
        ({"samples": [1, None]}, r"samples\[1\]"),
        ({"value": "fast"}, "x: value"),
    ],
)
def test_measurements_with_nonsense(value: dict[str, Any], message: str) -> None:
    good = to_json(Measurement("x", 1.0, "ms", Kind.HOST))
    with pytest.raises(BadInput, match=message):
        from_json(Measurement, good | value, where="x")


@pytest.mark.parametrize(
    "spec", [{"shape": ()}, {"shape": (0, 2)}, {"shape": (1 << 20, 1 << 20)},
             {"shape": (2,), "std": (0.0,)}, {"shape": (2,), "std": (math.nan,)}]
)  # fmt: skip
def test_an_input_that_cannot_be_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        InputSpec(**spec)


def test_small_conveniences() -> None:
    assert InputSpec((2, 3, 4)).features == 24
    m = Measurement("x", 1.0, "ms", Kind.HOST)
    result = from_json(
        Result,
        {
            "device": {"id": "host"},
            "artifact": {"path": "a", "sha256": "", "format": "onnx", "flavour": "standard",
                         "quantization": "none"},
            "runtime": {"name": "r", "version": "1"},
            "measurements": [to_json(m)],
        },
    )  # fmt: skip
    assert result.get("x") == m
    assert result.get("y") is None


def test_an_unknown_key_is_refused_with_the_closest() -> None:
    good = to_json(Parity("r", "1", 1, 0.0, 1.0, 1e-5, "data"))
    with pytest.raises(BadInput, match=r"unknown key in file 'bach'; closest: batch"):
        from_json(Parity, good | {"bach": 1}, where="file")

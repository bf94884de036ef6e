"""Whole JSON and TOML documents: what is refused, and how the file and the key are named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.codec import dump, from_json, parse, parse_json, parse_toml, read, read_toml
from sepdeploy.errors import BadInput
from sepdeploy.records import (
    ArtifactRecord,
    BenchReport,
    FileRef,
    InputSpec,
    LayerRecord,
    Manifest,
    Parity,
)

MANIFEST = Manifest(
    stem="net",
    model=FileRef("net.pt", "ab"),
    input=InputSpec((1, 4, 4)),
    layers=(LayerRecord("fc1", "kron", ((1, 2, 3),), 6, 36, 12, 36),),
    artifacts=(
        ArtifactRecord(
            "net.onnx", "onnx", "standard", "none", "cd", 10, "NCHW", "float32",
            parity=(Parity("onnxruntime", "1.20", 8, 1e-7, 1.0, 1e-5, "data"),),
        ),
    ),
)  # fmt: skip
TEXT = dump(MANIFEST)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"stem": "net"', '"stem": "net", "stem": "net"', "m has the key 'stem' twice"),
        ('"macs": 12', '"macs": 12, "macs": 13', "m has the key 'macs' twice"),
        ('"max_rel": 1e-07', '"max_rel": NaN', r"m: artifacts\[0\]\.parity\[0\]\.max_rel: nan is"),
        ('"max_rel": 1e-07', '"max_rel": 1e999', r"parity\[0\]\.max_rel: inf is not a finite"),
        ('"macs": 12', '"macs": 1' + "0" * 30, r"m: layers\[0\]\.macs: a number of more than 24"),
        ('"macs": 12', '"macs": 1' + "0" * 5000, r"m is not valid JSON"),
        ('"macs": 12', '"macs": 12.5', r"m: layers\[0\]\.macs: expected int, found float"),
        ('"macs": 12', '"macs": true', r"m: layers\[0\]\.macs: expected int, found bool"),
        ('"macs": 12', '"mcas": 12', r"unknown key in m 'layers\[0\]\.mcas'; closest: layers\[0\]"),
        ('"macs": 12,', "", r"m: key 'layers\[0\]\.macs' is missing"),
        ('"provenance": {}', '"provenance": ' + '{"a":' * 80 + "1" + "}" * 80, "too deeply"),
        ('"std": [\n      1.0', '"std": [\n      0', "m: input: input std .* must be positive"),
        ("sepdeploy.manifest/1", "sepdeploy.manifest/2", "newer than 'sepdeploy.manifest/1'"),
        ("sepdeploy.manifest/1", "sepdeploy.bench/1", "expected 'sepdeploy.manifest/1'"),
        ("}", "", "m is not valid JSON"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_refused_with_file_and_key(old: str, new: str, message: str) -> None:
    assert old in TEXT
    assert parse(Manifest, TEXT, where="m") == MANIFEST
    with pytest.raises(BadInput, match=message) as error:
        parse(Manifest, TEXT.replace(old, new, 1), where="m")
    assert error.value.hint


@pytest.mark.parametrize(
    ("version", "hint"), [(2, "newer"), (0, "older"), ("x", "sepdeploy bench")]
)
def test_another_version_is_told_from_another_kind(version: object, hint: str) -> None:
    with pytest.raises(BadInput, match=r"m has schema .* 'sepdeploy\.bench/1'") as error:
        parse(BenchReport, json.dumps({"schema": f"sepdeploy.bench/{version}"}), where="m")
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\na = 2", "t is not valid TOML"),
        ("a = [1, {b = nan}]", r"t: a\[1\]\.b: nan is not a finite number"),
        ("a = -inf", "t: a: -inf is not a finite"),
        ("a = 1" + "0" * 30, "t: a: a number of more than 24 digits"),
        ("a = 1" + "0" * 5000, "t is not valid TOML"),
        ("[a]\nb = 2020-01-01", r"t: a\.b: a date has no place here"),
        ("a = " + "[" * 5000, "t is not valid TOML"),
        ("a = " + "[" * 80 + "]" * 80, "t: .* is nested too deeply"),
        (b"\xff\xfe", "t is no TOML: it is no text"),
    ],
)
def test_a_damaged_table_is_refused_with_file_and_key(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_toml(text, where="t")


@pytest.mark.parametrize("reader", [read_toml, lambda p, limit: read(BenchReport, p, limit=limit)])
def test_a_large_file_is_refused_unread(reader: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b" " * 101)
    with pytest.raises(BadInput, match="larger than 100 bytes"):
        reader(path, limit=100)


@given(st.data())
def test_a_mutated_document_is_bad_input_or_a_record(data: st.DataObject) -> None:
    text = TEXT.encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        end = at + data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.binary(max_size=4)) + text[end:]
    with contextlib.suppress(BadInput):
        assert isinstance(parse(Manifest, text, where="m"), Manifest)


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_any_text_is_bad_input_or_a_table(text: str | bytes) -> None:
    for reader in (parse_json, parse_toml):
        with contextlib.suppress(BadInput):
            assert isinstance(reader(text, where="x"), dict)


@dataclass(frozen=True)
class _Inner:
    size: float


@dataclass(frozen=True)
class _Outer:
    table: dict[str, _Inner]
    pair: tuple[int, _Inner] | None = None


def test_records_inside_tables_and_pairs() -> None:
    found = from_json(_Outer, {"table": {"a": {"size": 2}}, "pair": [1, {"size": 0.5}]})
    assert found == _Outer({"a": _Inner(2.0)}, (1, _Inner(0.5)))
    with pytest.raises(BadInput, match=r"record: table\.a\.size: expected float, found str"):
        from_json(_Outer, {"table": {"a": {"size": "2"}}})
    with pytest.raises(BadInput, match="expected 2 values, found 1"):
        from_json(_Outer, {"table": {}, "pair": [1]})

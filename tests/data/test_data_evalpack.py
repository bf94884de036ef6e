"""The evaluation pack: what was written comes back; anything else is refused in one line."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepdeploy.data import evalpack
from sepdeploy.data.archive import READ_LIMIT
from sepdeploy.data.evalpack import PACK_LIMIT, EvalPack, as_float, fits, read_pack, write_pack
from sepdeploy.errors import BadInput


def pack(n: int = 4, *, uint8: bool = True, attacked: bool = True) -> EvalPack:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 1, 3, 3)).astype(np.uint8)
    clean = as_float(images)
    return EvalPack(
        images if uint8 else clean,
        np.arange(n) % 2,
        np.arange(n),
        rng.random((n, 2), dtype=np.float32),
        clean if attacked else None,
        rng.random((n, 2), dtype=np.float32) if attacked else None,
        {"data": "digits", "attack": None},
    )


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return dict(stored)


@pytest.mark.parametrize("uint8", [True, False])
@pytest.mark.parametrize("attacked", [True, False])
def test_a_pack_comes_back_as_it_was(tmp_path: Path, uint8: bool, attacked: bool) -> None:
    path = tmp_path / "x.eval.npz"
    made = pack(uint8=uint8, attacked=attacked)
    write_pack(made, path)
    found = read_pack(path)
    assert list(tmp_path.iterdir()) == [path]
    assert len(found) == 4
    assert found.provenance == made.provenance
    for field in dataclasses.fields(EvalPack):
        a, b = getattr(made, field.name), getattr(found, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b
    np.testing.assert_array_equal(found.clean(), made.clean())
    assert found.clean().dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224), (1 << 22,)])
@pytest.mark.parametrize("attacked", [True, False])
def test_what_fits_stays_below_the_limit_and_wastes_little(
    tmp_path: Path, shape: tuple[int, ...], attacked: bool
) -> None:
    n = fits(shape, 10, uint8=True, attacked=attacked)
    sample = int(np.prod(shape)) * (5 if attacked else 1) + 16 + 40 * (2 if attacked else 1)
    assert n == 1 or n * sample <= PACK_LIMIT < (n + 1) * sample + 4096


def test_a_pack_above_the_limit_is_not_written(tmp_path: Path) -> None:
    big = np.zeros((1, PACK_LIMIT // 4), np.float32)
    too_much = EvalPack(big, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 2), "f4"))
    with pytest.raises(BadInput, match="fewer samples"):
        write_pack(too_much, tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "good.npz"
    write_pack(pack(), path)
    return path


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_pack_is_bad_input_and_never_anything_else(
    good: Path, data: st.DataObject
) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = good.with_name("damaged.npz")
    path.write_bytes(content if data.draw(st.booleans()) else content[:cut])
    try:
        found = read_pack(path)
    except BadInput as error:
        message = error.message
    else:
        message = str(path)
        assert np.isfinite(found.logits).all()
    assert str(path) in message


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"not a zip at all"])
def test_files_that_are_no_packs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a readable evaluation pack"):
        read_pack(path)
    with pytest.raises(BadInput):
        read_pack(tmp_path)
    with pytest.raises(BadInput):
        read_pack(tmp_path / "none.npz")


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another length": ({"labels": np.zeros(3, np.int64)}, "do not fit"),
    "no images at all": ({k: v[:0] for k, v in vars(pack()).items() if isinstance(v, np.ndarray)},
        "do not fit"),
    "a scalar": ({"ids": np.int64(3)}, "do not fit"),
    "adversarial images of another size": ({"adversarial": np.zeros((4, 1, 2, 2), "f4")}, "do not"),
    "nan": ({"logits": np.full((4, 2), np.nan, "f4")}, "NaN"),
    "words for logits": ({"logits": np.array([["a", "b"]] * 4)}, "numbers"),
    "words for images": ({"images": np.full((4, 1, 3, 3), "a")}, "numbers"),
    "complex labels": ({"labels": np.zeros(4, complex)}, "numbers"),
    "labels below zero": ({"labels": np.full(4, -1)}, "labels"),
    "labels beyond the classes": ({"labels": np.full(4, 2)}, "labels"),
    "flat logits": ({"logits": np.zeros(4, "f4")}, "do not fit"),
    "provenance that is a list": ({"provenance": np.frombuffer(b"[]", np.uint8)}, "provenance"),
    "provenance that is no JSON": ({"provenance": np.frombuffer(b"{", np.uint8)}, "readable"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_arrays_that_cannot_be_a_pack(good: Path, tmp_path: Path, what: str) -> None:
    change, says = CHANGES[what]
    path = tmp_path / "x.npz"
    np.savez(path, **(arrays(good) | change))
    with pytest.raises(BadInput, match=says):
        read_pack(path)


@pytest.mark.parametrize("name", ["images", "labels", "ids", "logits", "provenance"])
def test_a_missing_array_is_bad_input(good: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{k: v for k, v in arrays(good).items() if k != name})
    with pytest.raises(BadInput, match="not a readable evaluation pack"):
        read_pack(path)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("the pack ran code",))


def test_a_pickle_inside_runs_nothing(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **(arrays(good) | {"logits": np.array([_Bomb()], dtype=object)}))
    with pytest.raises(BadInput):
        read_pack(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", pickle.dumps(_Bomb()))
    with pytest.raises(BadInput):
        read_pack(path)
    assert "ran code" not in capsys.readouterr().out


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(READ_LIMIT, np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", zeros.getvalue())
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(evalpack.np, "load", None)
    with pytest.raises(BadInput, match="unpacks to more than"):
        read_pack(path)


def test_a_header_that_promises_the_world_is_bad_input(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name == "images.npy":
                content = content.replace(b"(4, 1, 3, 3)", b"(9999999999,)")
            archive.writestr(name, content)
    with pytest.raises(BadInput):
        read_pack(path)


@pytest.mark.parametrize("header", [b"{'descr': ('<f4'", b"(((", b"no array at all"])
def test_a_member_whose_header_is_no_header(good: Path, tmp_path: Path, header: bytes) -> None:
    """Found by mutants: numpy answers with errors of its tokenizer, or with plain bytes."""
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "images.npy":
                whole = header.startswith(b"no")
                content = header if whole else content[:10] + header.ljust(118)
            target.writestr(name, content)
    with pytest.raises(BadInput, match=r"odd\.npz"):
        read_pack(path)

"""How much of ONNX's own backend test suite is exported, and is every written file right?

``python -m benchmarks.conformance`` takes each model of the suite as shipped and, once more, with
all but the first float input made constants. It is brought into canonical form, written, run and
compared with the outputs that the suite gives, within the suite's tolerances, in a child process
of many cases. What has been judged stands in a file of lines, so the run goes on where it stopped.
``--export`` asks the whole of ``sepdeploy export`` instead, which refuses what it cannot prove.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from benchmarks import page
from sepdeploy.errors import ArtifactCheckFailed, SepdeployError
from sepdeploy.measure import host_facts
from sepdeploy.reports.tables import Table, markdown

KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
WAYS = ("as shipped", "one float input")
RIGHT, REFUSED, WRONG = "right", "refused", "wrong"
UNRUNNABLE, BUG = "unrunnable", "exit 70"
RESULTS = (RIGHT, REFUSED, WRONG, UNRUNNABLE, BUG)
ROUNDED = {"float16": 2e-3, "bfloat16": 2e-2}  # of an output that the model computes in 16 bits
RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}


class Case(NamedTuple):
    """One model of the suite, with inputs and the outputs that they give."""

    name: str
    model: bytes
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    rtol: float
    atol: float


def suite(folder: Path) -> dict[str, Case]:
    """Return the cases by name, made by onnx's generator once and kept in a folder."""
    kept = folder / "cases.pickle"  # our own, in a folder of builds
    if not kept.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = list(_generated())
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps({c.name: c for c in cases}))
    found: dict[str, Case] = pickle.loads(kept.read_bytes())
    return found


def _generated() -> Iterator[Case]:
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    for case in collect_testcases(None):
        inputs, outputs = case.data_sets[0]
        model = case.model.SerializeToString()
        given, wanted = tuple(map(_array, inputs)), tuple(map(_array, outputs))
        yield Case(case.name, model, given, wanted, case.rtol, case.atol)
    for kind in KINDS[1:]:
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = (folder / "model.onnx").read_bytes()
            graph = onnx.load_model_from_string(model).graph
            first = folder / "test_data_set_0"
            inputs = [_read(first / f"input_{i}.pb") for i in range(len(graph.input))]
            outputs = [_read(first / f"output_{i}.pb") for i in range(len(graph.output))]
            inputs = [i for i in inputs if i is not None]
            yield Case(case.name, model, tuple(inputs), tuple(outputs), case.rtol, case.atol)


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    tensor = TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # a sequence or optional
        return ()


def reduced(case: Case) -> Case | None:
    """Return a case with all inputs but the first float one as constants; None without one."""
    model = onnx.load_model_from_string(case.model)
    infos = list(model.graph.input)
    kinds = [i.type.tensor_type.elem_type for i in infos]
    first = next((k for k, kind in enumerate(kinds) if kind == TensorProto.FLOAT), None)
    if first is None or len(case.inputs) != len(infos):
        return None
    if any(not isinstance(a, np.ndarray | np.generic) for a in case.inputs):
        return None
    for k, info in enumerate(infos):
        if k != first:
            array = np.asarray(case.inputs[k])
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
    del model.graph.input[:]
    model.graph.input.append(infos[first])
    return case._replace(model=model.SerializeToString(), inputs=(case.inputs[first],))


def judge(case: Case, form: str, *, whole: bool) -> tuple[str, str]:
    """Return what became of a case, and what was said."""
    try:
        with tempfile.TemporaryDirectory(prefix="sepdeploy-") as folder:
            path = _exported(case, form, Path(folder)) if whole else _written(case, form, folder)
            return _compared(case, form, path)
    except SepdeployError as error:
        proven = isinstance(error, ArtifactCheckFailed)
        return REFUSED, ("proof: " if proven else "") + str(error.message)
    except Exception as error:
        return BUG, f"{type(error).__name__}: {error}"


def _written(case: Case, form: str, folder: str) -> Path:
    from sepdeploy.exporters.capture.normalize import check_sizes, normalize
    from sepdeploy.exporters.capture.onnx_source import read_onnx
    from sepdeploy.exporters.formats import FORMATS, Order
    from sepdeploy.exporters.plan import plan

    source = Path(folder) / "given.onnx"
    source.write_bytes(case.model)
    light, weights = read_onnx(source)
    model = normalize(light, weights, where=case.name, notify=lambda _: None)
    check_sizes(model, case.name)
    path = Path(folder) / f"written.{form}"
    FORMATS[form].write(Order(model, plan(model, form)), path)
    return path


def _exported(case: Case, form: str, folder: Path) -> Path:
    from sepdeploy import api

    source = folder / "given.onnx"
    source.write_bytes(case.model)
    api.export(source, out_dir=folder / "out", formats=form)
    return folder / "out" / f"given.{form}"


def _compared(case: Case, form: str, path: Path) -> tuple[str, str]:
    from sepdeploy.runtimes.runner.contract import RunnerError
    from sepdeploy.runtimes.runner.table import load

    try:
        model = load(RUNTIMES[form], str(path), 1, "")
        given = dict(zip([p.name for p in model.inputs], case.inputs, strict=True))
        found = model.run_named({name: np.asarray(a) for name, a in given.items()})
    except RunnerError as error:
        beyond = any(_beyond(a) for a in case.inputs)
        return REFUSED if beyond else UNRUNNABLE, str(error)
    for (name, mine), theirs in zip(found.items(), case.outputs, strict=True):
        wanted = np.asarray(theirs)
        rounded = ROUNDED.get(wanted.dtype.name, 0.0)
        if rounded:
            wanted = wanted.astype(np.float32)
        if mine.shape != wanted.shape:
            return WRONG, f"{name}: shape {mine.shape}, not {wanted.shape}"
        if mine.dtype.kind != wanted.dtype.kind:
            return WRONG, f"{name}: {mine.dtype}, not {wanted.dtype}"
        rtol, atol = max(case.rtol, rounded), max(case.atol, rounded, 1e-6)
        if wanted.dtype.kind in "fc":
            same = np.allclose(mine, wanted, rtol=rtol, atol=atol, equal_nan=True)
        else:
            same = np.array_equal(mine, wanted)
        if not same:
            return WRONG, f"{name}: other numbers"
    return RIGHT, ""


def _beyond(value: Any) -> bool:
    """Whether there are numbers that float32 cannot hold, which a session refuses."""
    kind = getattr(value, "dtype", np.dtype(object))
    largest = np.finfo(np.float32).max
    return kind == np.float64 and bool((np.abs(value[np.isfinite(value)]) > largest).any())


def work(folder: Path, form: str, *, whole: bool) -> None:
    """Judge the cases whose ways and names come in as lines; tell before and after each."""
    cases = suite(folder)
    for line in sys.stdin:
        way, _, name = line.strip().partition("|")
        print(json.dumps({"begun": [way, name]}), flush=True)
        case = cases[name] if way == WAYS[0] else reduced(cases[name])
        result, said = judge(case, form, whole=whole) if case else ("", "")
        told = {"way": way, "name": name, "result": result, "said": said}
        print(json.dumps(told), flush=True)


def run(folder: Path, form: str, wanted: Sequence[tuple[str, str]], *, whole: bool) -> None:
    """Judge cases in child processes and add what is found to the file of lines."""
    lines = folder / f"{form}{'-export' if whole else ''}.jsonl"
    left = list(wanted)
    command = [sys.executable, "-m", "benchmarks.conformance", "--work", "--format", form]
    command += ["--folder", str(folder), *(["--export"] if whole else [])]
    while left:
        text = "".join(f"{way}|{name}\n" for way, name in left)
        child = subprocess.run(
            command,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        told = [json.loads(x) for x in child.stdout.splitlines() if x.startswith("{")]
        done = [t for t in told if "result" in t]
        if len(done) < len(left):
            broken = next((t["begun"] for t in reversed(told) if "begun" in t), left[0])
            said = f"the process ended ({child.returncode})"
            done.append({"way": broken[0], "name": broken[1], "result": UNRUNNABLE, "said": said})
        with lines.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(t) + "\n" for t in done)
        known = {(t["way"], t["name"]) for t in done}
        left = [pair for pair in left if pair not in known]


def found(folder: Path, form: str, *, whole: bool = False) -> dict[tuple[str, str], dict[str, str]]:
    """Return what the file of lines says, the last word on each case."""
    lines = folder / f"{form}{'-export' if whole else ''}.jsonl"
    text = lines.read_text(encoding="utf-8") if lines.is_file() else ""
    return {(t["way"], t["name"]): t for t in map(json.loads, text.splitlines())}


def table(results: dict[str, dict[tuple[str, str], dict[str, str]]]) -> str:
    """Return how many of each way and format came to what, as Markdown."""
    drawn = Table(("suite", "format", "models", *RESULTS), range(2, 8))
    for way in WAYS:
        for form, all_of in results.items():
            said = [t["result"] for (w, _), t in all_of.items() if w == way and t["result"]]
            counts = Counter(said)
            drawn.add(way, form, str(len(said)), *(str(counts[r]) for r in RESULTS))
    return "\n".join(markdown(drawn))


NOTES = """Right: every output within the tolerances that the suite gives for it, or of 16 bits
where the model has those, since the files compute in float32. Refused: nothing is written, and the
message names operator and node. What is counted here are the files as they are written, before the
proof: `sepdeploy export` runs every file against ONNX Runtime and keeps none that differs."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/conformance"))
    parser.add_argument("--format", choices=RUNTIMES, default="tflite")
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--sample", type=int, default=0, help="so many cases of each way; 0: all")
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--again", default="", help="results that are asked for anew, or 'all'")
    parser.add_argument("--export", action="store_true", help="by the whole of an export")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.folder, given.format, whole=given.export)
        return 0
    facts = host_facts()
    known = found(given.folder, given.format, whole=given.export)
    again = {k for k, t in known.items() if given.again and given.again in ("all", t["result"])}
    names = sorted(n for n in suite(given.folder) if given.only in n)
    random.Random(0).shuffle(names)
    names = names[: given.sample or None]
    pairs = [(way, name) for way in given.way or WAYS for name in names]
    todo = [p for p in pairs if p not in known or p in again]
    run(given.folder, given.format, todo, whole=given.export)
    now = found(given.folder, given.format, whole=given.export)
    if given.write is None:
        print(table({given.format: {p: now[p] for p in pairs}}))
        return 0
    told = {form: of for form in RUNTIMES if (of := found(given.folder, form))}
    text = f"{NOTES}\n\n{table(told)}"
    page.put("conformance", text, "python -m benchmarks.conformance --write", facts, given.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())

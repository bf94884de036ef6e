"""Record real, noisy timings into `noisy_timings.json`, from which the gate's tests draw.

    python tests/gate/record_noise.py

Each trace is one fresh process that times one and the same ONNX Runtime session (a chain of
1024 x 1024 layers, batch 1, one thread, bound by memory): warm-up, then 200 rounds of 10
inferences with a pause between rounds. "shared" traces run on the machine as it is found, "busy"
ones beside as many processes as there are cores, each of which copies memory in bursts about half
of the time. Nothing differs between the inferences, so whatever differs is noise.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROUNDS, PER_ROUND, WARMUP, LAYERS, WIDTH, BATCH = 200, 10, 30, 8, 1024, 1
PROCESSES = {"shared": 6, "busy": 6}
PAUSE_S, BURST_S = 0.04, 0.15


def build() -> bytes:
    """Return a chain of dense layers as an ONNX file."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.03, (WIDTH, WIDTH)).astype(np.float32), f"w{i}")
        for i in range(LAYERS)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(LAYERS)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, WIDTH])
        for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "chain", [ends[0]], [ends[1]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def trace(queue: multiprocessing.Queue[list[int]]) -> None:
    """Time one session in this process; microseconds, in time order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(build(), options, providers=["CPUExecutionProvider"])
    feed = {"x0": np.ones((BATCH, WIDTH), np.float32)}
    samples = []
    for i in range(WARMUP + ROUNDS * PER_ROUND):
        if i % PER_ROUND == 0:
            time.sleep(PAUSE_S)
        start = time.perf_counter_ns()
        session.run(None, feed)
        samples.append((time.perf_counter_ns() - start) / 1000)
    queue.put([round(s) for s in samples[WARMUP:]])


def disturb() -> None:
    """Copy memory for half of the time, in irregular bursts."""
    rng = np.random.default_rng(os.getpid())
    source = np.ones(4 << 20)
    target = np.empty_like(source)
    while True:
        end = time.perf_counter() + rng.exponential(BURST_S)
        while time.perf_counter() < end:
            np.copyto(target, source)
        time.sleep(rng.exponential(BURST_S))


def main() -> None:
    """Run every process, one after the other, and write the fixture."""
    context = multiprocessing.get_context("spawn")
    traces: dict[str, list[list[int]]] = {}
    for name, count in PROCESSES.items():
        neighbours = [
            context.Process(target=disturb, daemon=True) for _ in range(os.cpu_count() or 1)
        ]
        if name == "busy":
            for neighbour in neighbours:
                neighbour.start()
        traces[name] = []
        for _ in range(count):
            queue: multiprocessing.Queue[list[int]] = context.Queue()
            process = context.Process(target=trace, args=(queue,))
            process.start()
            traces[name].append(queue.get())
            process.join()
            time.sleep(3)
        if name == "busy":
            for neighbour in neighbours:
                neighbour.terminate()
    document = {
        "how": (
            "tests/gate/record_noise.py: one ONNX Runtime session of dense layers timed in fresh "
            "processes, one thread, on a shared two-core x86-64 virtual machine; 'busy' beside a "
            "process per core that copies memory half of the time"
        ),
        "unit": "us",
        "rounds": ROUNDS,
        "per_round": PER_ROUND,
        "traces": traces,
    }
    lines = json.dumps(document).replace("[[", "[\n[").replace("], [", "],\n[")
    Path(__file__).with_name("noisy_timings.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

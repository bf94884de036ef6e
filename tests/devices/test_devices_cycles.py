"""Cycles of executed blocks: ports, caches, boards, and the published latencies that they meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.estimate.cycles import rows
from sepdeploy.devices import profile
from sepdeploy.devices.estimate import Work, estimable, parse_blocks, time_of, work
from sepdeploy.devices.estimate.executed import Events, Executed, signature
from sepdeploy.errors import BadInput

SIMULATED = Path(__file__).with_name("port_blocks.json")
QUIET = Events(*[0] * 9)
FMLA = 0x4E20CC00  # fmla v0.4s, v0.4s, v0.4s
ADD = 0x91000400  # add x0, x0, #1


def executed(*words: int, times: int = 1) -> Executed:
    return Executed(((times, words),), QUIET)


# Recorded from llvm-mca's full simulation of MobileNetV1's and V2's hottest blocks.
@pytest.mark.parametrize("family", ["a72", "a76"])
def test_blocks_take_what_a_full_simulation_gives(family: str) -> None:
    blocks = json.loads(SIMULATED.read_text())[family]
    ours = theirs = 0.0
    for block in blocks:
        code = block["code"]
        words = tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8))
        ours += work(executed(*words, times=block["executions"]), family).kernels
        theirs += block["executions"] * block["cycles"]
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize(("family", "cycles"), [("a72", 12.0), ("a76", 6.0)])
def test_vector_multiply_adds_fill_the_pipes_that_a_core_has(family: str, cycles: float) -> None:
    done = work(executed(*[FMLA] * 12, times=3), family)
    assert (done.kernels, done.scalar, done.instructions) == (3 * cycles, 0.0, 36)


def test_code_without_vectors_runs_at_the_cores_own_rate() -> None:
    done = work(executed(*[ADD] * 10), "a72")
    assert (done.kernels, done.scalar) == (0.0, 8.0)


def test_registers_and_distances_do_not_change_an_instruction() -> None:
    assert signature(FMLA) == signature(FMLA | 3 << 16 | 7 << 5 | 9)
    assert signature(ADD) == signature(0x91001C41)
    assert signature(FMLA) != signature(0x4E20D400)  # fadd
    strange = work(executed(FMLA, 0x00000001), "a72")
    assert strange.unknown == 0.5


def test_caches_and_threads() -> None:
    board = profile("rpi4")
    done = Work(1000, 1.8e6, 0.0, 0.0, QUIET)  # a millisecond at 1.8 GHz
    assert time_of(done, board).ms == pytest.approx(1.0)
    assert time_of(done, board, 4).compute_ms == pytest.approx(1 / (4 * 0.95))
    assert time_of(done, board, 16).ms == time_of(done, board, 4).ms
    far = replace(done, events=replace(QUIET, memory=10_000))
    assert time_of(far, board).memory_ms > 0.7 * 640_000 / 5.56e6 > 0
    alone = replace(done, events=replace(QUIET, l2_alone=100_000))
    near = replace(done, events=replace(QUIET, l2=100_000))
    assert time_of(alone, board).ms > time_of(near, board).ms > 1.0
    found = time_of(far, board)
    parts = found.compute_ms + found.memory_ms + found.overhead_ms
    assert found.ms == pytest.approx(parts)


def test_which_devices_have_a_table() -> None:
    assert [d for d in ("rpi4", "rpi5", "rpi3b+", "host") if estimable(profile(d))] == [
        "rpi4",
        "rpi5",
    ]


@pytest.mark.parametrize("text", ["", "1 2 3\nend 3\n", "0 0 0 0 0 0 0 0 0\n1 zz\nend 3\n"])
def test_a_record_that_is_cut_off(text: str) -> None:
    with pytest.raises(BadInput, match="cut off"):
        parse_blocks(text)


def test_published_latencies_are_met() -> None:
    table = rows()
    unseen = [r for r in table if r.use == "check"]
    assert len(unseen) >= 2
    assert {r.device for r in table} == {"rpi4", "rpi5"}
    assert mean(abs(r.ratio - 1) for r in unseen) <= 0.15
    assert all(1 / 1.6 <= r.ratio <= 1.6 for r in table)


def test_mobilenets_are_in_their_order_on_a_pi_4() -> None:
    one, two = (
        next(r for r in rows() if (r.device, r.network, r.dtype) == ("rpi4", name, "fp32"))
        for name in ("mobilenet_v1", "mobilenet_v2")
    )
    published, estimated = one.ms / two.ms, one.ms * one.ratio / (two.ms * two.ratio)
    assert estimated == pytest.approx(published, rel=0.15)

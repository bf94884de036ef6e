"""Makes the tables of ports: `python tools/ports.py FAMILY BLOCKS.txt … > FAMILY.toml`.

Needs LLVM 19 (`apt-get install llvm-19`); users do not. BLOCKS.txt are records of executed blocks
(devices/emulation/c/blocks.c); every kind of instruction in them is given to llvm-mca alone, whose
resource pressure does not depend on its neighbours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from sepdeploy.devices.estimate.executed import parse_blocks, signature

# LLVM's "cortex-a76" is its model of the A57; that of the Neoverse N1, the same core, is right.
MODELS = {"a72": ("cortex-a57", 3), "a76": ("neoverse-n1", 8)}
TARGET = ("-mattr=+all",)
LLVM = "19"


def disassembled(words: list[int]) -> list[str]:
    """Return the instructions as text."""
    text = "\n".join(" ".join(hex(w >> 8 * i & 255) for i in range(4)) for w in words)
    command = [f"llvm-mc-{LLVM}", "--disassemble", "-triple=aarch64", *TARGET]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    lines = (line.strip() for line in done.stdout.splitlines())
    return [line for line in lines if line and not line.startswith(".")]


Region = tuple[list[str], dict[str, Any]]


def analysed(model: str, instructions: list[str]) -> list[Region | None]:
    """Return each instruction's resources and numbers; None where the model does not know it."""
    text = "".join(
        f"# LLVM-MCA-BEGIN r{i}\n{line}\n# LLVM-MCA-END\n" for i, line in enumerate(instructions)
    )
    command = [f"llvm-mca-{LLVM}", "-mtriple=aarch64", f"-mcpu={model}", *TARGET, "-json"]
    done = subprocess.run(
        [*command, "-iterations=100"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if len(instructions) == 1:
            return [None]
        half = len(instructions) // 2
        return analysed(model, instructions[:half]) + analysed(model, instructions[half:])
    found: dict[str, Any] = json.loads(done.stdout)
    return [(found["TargetInfo"]["Resources"], region) for region in found["CodeRegions"]]


def kind(pipe: str) -> str:
    """Return a pipe's kind: "A57UnitI.<0>" and "N1UnitV1" are one of several that are alike."""
    name = pipe.partition(".")[0].partition("Unit")[2]
    return name.rstrip("01")


def main() -> None:
    """Print a table."""
    family, *files = sys.argv[1:]
    model, width = MODELS[family]
    sample: dict[int, int] = {}
    for name in files:
        for _, words in parse_blocks(Path(name).read_text(encoding="ascii")).blocks:
            for word in words:
                sample.setdefault(signature(word), word)
    keys = sorted(sample)
    answers = analysed(model, disassembled([sample[k] for k in keys]))
    pipes: Counter[str] = Counter()
    classes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for key, answer in zip(keys, answers, strict=True):
        if answer is None:
            continue
        resources, region = answer
        pipes = Counter(map(kind, resources))
        load: Counter[str] = Counter()
        for use in region["ResourcePressureView"]["ResourcePressureInfo"]:
            if use["InstructionIndex"] == 0:
                load[kind(resources[use["ResourceIndex"]])] += use["ResourceUsage"]
        uops = region["InstructionInfoView"]["InstructionList"][0]["NumMicroOpcodes"]
        classes[uops, tuple(sorted((p, round(v, 1)) for p, v in load.items()))].append(key)
    used = {p for _, load in classes for p, _ in load}
    print("# Written by tools/ports.py; instructions are signatures (estimate/executed.py).")
    print(f'model = "{model}"\nllvm = "{LLVM}"\nwidth = {width}')
    print(f"pipes = {{ {', '.join(f'{p} = {pipes[p]}' for p in sorted(used))} }}")
    for (uops, load), found in sorted(classes.items()):
        print(f"\n[[classes]]\nuops = {uops}")
        print(f"pipes = {{ {', '.join(f'{p} = {v}' for p, v in load)} }}")
        print("instructions = [")
        for i in range(0, len(found), 8):
            print("    " + " ".join(f'"{k:08x}",' for k in found[i : i + 8]))
        print("]")


if __name__ == "__main__":
    main()

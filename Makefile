# Every target does its own set-up in $(VENV); only the first call pays for it.
#
#   make demo         train, prune, recover, verify, export and report on embedded real data
#   make test         the tests                  make test-slow   the long ones as well
#   make check        lint, formatting, types    make format      apply the formatter
#   make bench        speed and memory against Torch-Pruning; writes docs/benchmarks/
#   make accuracy     accuracy by granularity on the shared CIFAR-10 networks; writes docs/benchmarks/
#   make coverage     every supported architecture; writes docs/coverage.md
#   make docs         build the documentation into site/
#   make pictures     draw the pictures of the method pages anew
#   make clean        remove caches and build output; the environment and runs/ stay
#
# Variables: PYTHON (the interpreter to build the environment with), VENV (where it lies),
# WORKERS (parallel test processes), ARGS (handed on to the command of the target) and
# TORCH_FLAGS (pip options for torch, such as
# --index-url https://download.pytorch.org/whl/cpu on Linux without a GPU).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=
TORCH_FLAGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt
PINS := pyproject.toml constraints.txt

# One stamp a set of packages: a target installs what it needs and no more.
TORCH := $(VENV)/.installed-torch
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench
DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format bench accuracy coverage docs pictures clean

help:
	@sed -n '/^#   make/s/^#//p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(TORCH): constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_FLAGS) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(DEMO): $(TORCH) $(PINS)
	$(PIP) --editable ".[demo]"
	@touch $@

# These come without their dependencies: everything they need is installed by now, and resolving
# them could exchange torch for another build.
$(DEV): $(DEMO)
	$(PIP) --editable ".[demo,search,hf,ray,amc,openvino,dev]"
	$(PIP) --no-deps torchvision timm lightning lightning-utilities torchmetrics torchao
	@touch $@

$(BENCH): $(DEV)
	$(PIP) --no-deps torch-pruning
	@touch $@

$(DOCS): $(DEMO)
	$(PIP) --editable ".[demo,search,docs]"
	@touch $@

demo: $(DEMO)
	$(BIN)/secateur demo $(ARGS)

# One thread a worker: PyTorch's own threads would fight over the cores.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not coverage" $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)
	$(BIN)/python -m benchmarks.speed $(ARGS)
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.nm_masks
	$(BIN)/python -m benchmarks.sparse_kernels
	$(BIN)/python -m benchmarks.sparse_files
	$(BIN)/python -m benchmarks.global_magnitude
	$(BIN)/python -m benchmarks.recovery_overhead

# It goes on where it was ended.
accuracy: $(DEV)
	$(BIN)/python -m benchmarks.granularity_accuracy $(ARGS)

coverage: $(BENCH)
	$(BIN)/python -m benchmarks.coverage $(ARGS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

pictures: $(DEMO)
	$(BIN)/python -m docs._pictures $(ARGS)

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

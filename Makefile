# Two commands do everything: `make demo` and `make test`. Both make .venv first.
#
# PYTHON       the interpreter that makes .venv, 3.11 or newer
# TORCH_INDEX  where torch is sought besides the usual index. The CPU build is the default; for a GPU:
#              make .venv TORCH_INDEX=https://download.pytorch.org/whl/cu130
# PIP_FLAGS    further options of pip, such as --index-url
# DEMO_FLAGS   further options of the demo's training, such as --seed 1
# BENCH_FLAGS  further options of every benchmark, such as --device cuda

TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP_FLAGS   ?=
DEMO_FLAGS  ?=
BENCH_FLAGS ?=

SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON   ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
    $$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)

BIN   := .venv/bin
STAMP := .venv/.installed
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help .venv demo test bench lint format clean

help:  ## this list
	@grep -E '^[a-z.]+:.*## ' Makefile | sed -E 's/^([a-z.]+):[^#]*## /  make \1\t/' | expand -t 16

.venv: $(STAMP)  ## the environment: advae, as in this folder, and its tools at the versions of constraints.txt

# torch by itself first, so that no other package is sought in its index; if that index cannot be
# reached, the attempt is short and the usual index serves.
$(STAMP): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(SUITABLE)' 2>/dev/null || { \
	    echo 'advae needs Python 3.11 or newer with venv; found: $(or $(PYTHON),none on the path).' >&2; \
	    echo 'Name one: make $(firstword $(MAKECMDGOALS) .venv) PYTHON=/path/to/python3.11' >&2; \
	    echo '(Debian and Ubuntu keep venv apart: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing into .venv (some minutes the first time) ...'
	'$(PYTHON)' -m venv .venv
	$(PIP) --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[dev,tensorboard]'
	@touch $@

demo: $(STAMP)  ## train, evaluate and report the default recipe on handwritten digits
	$(BIN)/advae train asvae-digits $(DEMO_FLAGS)

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -q

# pythae is a peer to measure against; without its dependencies' upper limits it takes the torch that is there.
bench: $(STAMP)  ## speed against peers and the machine's limits, into results/speed-*.md (half an hour; an idle machine)
	-$(PIP) --no-deps pythae==0.1.2 && $(PIP) pydantic imageio cloudpickle
	for name in training steps ais sampling startup streaming scaling profile_step recipes; do \
	    OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py $(BENCH_FLAGS) || exit 1; done

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## put the style right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv and everything that was built (runs/ stays)
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

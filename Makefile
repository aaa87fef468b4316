# `make demo` and `make test` create .venv first.
#
# PYTHON       Python 3.11 or newer, to create .venv
# TORCH_INDEX  additional package index for torch: CPU builds by default; for a GPU:
#              make .venv TORCH_INDEX=https://download.pytorch.org/whl/cu130
# PIP_FLAGS    more options of pip, such as --index-url
# DEMO_FLAGS   more options of the demo's training, such as --seed 1
# TEST_FLAGS   more options of pytest, such as -k iwae
# TEST_JOBS    number of test processes: one per core by default, at most 8; each needs about 1.5 GB
# BENCH_FLAGS  more options of every benchmark, such as --device cuda

TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP_FLAGS   ?=
DEMO_FLAGS  ?=
TEST_FLAGS  ?=
TEST_JOBS   ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
BENCH_FLAGS ?=

SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON   ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
    $$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)

BIN   := .venv/bin
STAMP := .venv/.installed
FAST_TESTS = $(filter-out tests/test_recipes.py tests/test_docs.py,$(wildcard tests/test_*.py)) tests/contract tests/data tests/truth/test_density_ratio.py \
    tests/truth/test_methods.py tests/training/test_step.py tests/cli/test_help.py
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist worksteal $(TEST_FLAGS)
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help .venv demo test test-fast bench lint format clean

help:  ## print this list
	@grep -E '^[a-z.-]+:.*## ' Makefile | sed -E 's/^([a-z.-]+):[^#]*## /  make \1\t/' | expand -t 16

.venv: $(STAMP)  ## install advae (editable) and its tools, with the versions of constraints.txt

# torch is installed first, so that no other package is searched for in its index. If that index cannot be reached,
# the attempt is short and the default index is used.
$(STAMP): pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(SUITABLE)' 2>/dev/null || { \
	    echo 'advae needs Python 3.11 or newer with venv. Found: $(or $(PYTHON),none on the path).' >&2; \
	    echo 'Choose one: make $(firstword $(MAKECMDGOALS) .venv) PYTHON=/path/to/python3.11' >&2; \
	    echo '(On Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing into .venv (takes some minutes the first time) ...'
	'$(PYTHON)' -m venv .venv
	$(PIP) --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[dev,tensorboard]'
	@touch $@

demo: $(STAMP)  ## train, evaluate and report the default recipe on handwritten digits
	$(BIN)/advae train asvae-digits $(DEMO_FLAGS)

test: $(STAMP)  ## run all tests
	$(PYTEST)

test-fast: $(STAMP)  ## run contracts, data, configuration and closed forms, in about a minute
	$(PYTEST) -m "not integration and not slow" $(FAST_TESTS)

# pythae is compared with. Without its dependencies' upper limits it works with the installed torch.
bench: $(STAMP)  ## measure speed, into results/speed-*.md (half an hour on an idle machine)
	-$(PIP) --no-deps pythae==0.1.2 && $(PIP) pydantic imageio cloudpickle
	for name in training_speed backend_speed ais_speed sampling_speed startup_time data_loading_speed scaling profile_step recipe_speed; do \
	    OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py $(BENCH_FLAGS) || exit 1; done

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## fix the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv and everything that was built, except runs/
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

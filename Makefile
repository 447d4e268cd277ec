# Every target sets up what it needs first; nothing but Python 3.11 or later (with venv) has to be there.
#   make run         open QuantUI        HOST=127.0.0.1 PORT=7860 WORKSPACE=workspace
#   make demo        the main job on the embedded models, without a browser
#   make test        every test, a real browser included
#   make test-npu    what computes, on a stand-in for an NPU; needs g++
#   make lint        ruff and mypy
#   make bench       what the performance claims are measured with
#   make bench-quality  what each method and each shipped recipe loses, written to docs/quality.md
#   make demo-models rebuild the embedded models

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

FIRST := $(shell grep -L mark.engine $(filter-out tests/test_cli.py,$(wildcard $(addsuffix /test_*.py,tests tests/ui tests/calibration tests/jobs)))) tests/quantize

COMPUTING := tests/quantize tests/stats tests/sensitivity tests/compare tests/checkpoint/test_place.py tests/numerics/test_float8.py tests/test_chat_worker.py

# Bytecode is kept: a test run starts a hundred processes, each of which would compile the package and its tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test test-npu lint bench bench-quality demo-models
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	$(BIN)/python app.py $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(if $(WORKSPACE),--workspace $(WORKSPACE))

demo: $(VENV)/.installed
	$(BIN)/python -m quantui demo

# In two halves at once, one of the page and of jobs in other processes, one of what computes; then those in a browser, which
# want both cores.
test: $(VENV)/.installed-dev
	$(BIN)/python -m tests.e2e.browser
	mkdir -p build
	$(BIN)/python -m pytest $(FIRST) > build/tests.log 2>&1 & first=$$!; \
	$(BIN)/python -m pytest tests $(addprefix --ignore=,$(FIRST) tests/e2e); second=$$?; \
	wait $$first; first=$$?; cat build/tests.log; exit $$((first | second))
	$(BIN)/python -m pytest tests/e2e

# QUANTUI_TEST_DEVICE=cuda:0 runs the same on a GPU, npu:0 without the stand-in's folder on a real NPU.
test-npu: $(VENV)/.installed-dev
	mkdir -p build
	QUANTUI_NPU_BUILD=$(CURDIR)/build QUANTUI_TEST_DEVICE=npu:0 PYTHONPATH=$(CURDIR)/tests/npu $(BIN)/python -m pytest $(COMPUTING)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	for script in $(filter-out bench/__init__.py,$(wildcard bench/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-quality: $(VENV)/.installed-dev
	$(BIN)/python bench/quality.py --write
	$(BIN)/python bench/compare_recipes.py --write

demo-models: $(VENV)/.installed
	$(BIN)/python -m assets.demo.make all

# The stamps are younger than the lists they were installed from, so that later runs begin at once.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(BIN)/python
	$(PIP) -r requirements-dev.txt
	touch $@ $(VENV)/.installed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "QuantUI needs Python 3.11 or later and found none: install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "this Python has no venv: install it (Debian: apt install python3-venv) and try again" >&2; exit 1; }

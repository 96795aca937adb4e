# `make demo` and `make test` set everything up on a fresh machine. The environment lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test lint install bench docs clean-demo

help:
	@echo "make demo        install, then train and evaluate a small real system on CPU, offline"
	@echo "make test        install, then lint, type-check and run all tests on CPU"
	@echo "make lint        ruff and mypy alone"
	@echo "make bench       time the kernels on this machine"
	@echo "make docs        renew docs/configuration.md after a configuration key has changed"
	@echo "make clean-demo  forget the demo's data, models and run"

install: $(STAMP)

# Files are compiled to bytecode when they are first imported, not all of them beforehand.
$(STAMP): setup.py pyproject.toml
	$(PYTHON) tools/check_machine.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade "pip>=24"
	$(BIN)/python -m pip install --no-compile --editable ".[test]"
	$(BIN)/python -c "from speechllm_plugin.sndfile import link_sndfile; link_sndfile()"
	$(BIN)/speechllm comet install
	touch $@

demo: install
	$(BIN)/speechllm demo

test: install lint
	FAIRSEQ2_EXTENSION_TRACE=1 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/speechllm bench cif
	$(BIN)/speechllm bench ctc-collapse

docs: install
	$(BIN)/python -m speechllm_tools.configuration_page docs/configuration.md

clean-demo:
	rm -rf demo

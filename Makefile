# `make demo` and `make test` set everything up on a fresh machine. The environment lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LATEST := .venv-latest
LATEST_TORCH ?= torch
LATEST_TESTS := tests/plugin/prompts tests/plugin/alignment tests/plugin/inference $(addprefix tests/plugin/,$(addsuffix .py, \
	$(addprefix adapters/test_,adapters base cif conv ctc published subsample wlq_former) \
	$(addprefix encoders/test_,encoders_apart seamless_m4t_v2 w2v_bert wav2vec2 whisper) \
	$(addprefix llms/test_,causal exact_decoding generation llm_families prefix_states scaled_positions) \
	$(addprefix pretrained/test_,damaged_llms encoders hub whole_models) \
	$(addprefix speech_llm/test_,ctc_head preflight) text/test_vocabulary))

.PHONY: help demo grid test test-latest lint install bench gpu docs clean-demo

help:
	@echo "make demo        install, then train and evaluate a small real system on CPU, offline"
	@echo "make grid        install, then train and report on 2 encoders x 7 adapters in five languages on CPU"
	@echo "make test        install, then lint, type-check and run all tests on CPU"
	@echo "make test-latest run the core's tests on the newest PyTorch and transformers, without fairseq2"
	@echo "make lint        ruff and mypy alone"
	@echo "make bench       time the kernels on this machine"
	@echo "make gpu         on a machine with a GPU: kernels, recipes of real width, memory, speed, on a page"
	@echo "make docs        renew docs/configuration.md and known_keys.json after a configuration key has changed"
	@echo "make clean-demo  forget the demo's data, models and run"

install: $(STAMP)

# Files are compiled to bytecode when they are first imported, not all of them beforehand. Images of containers often
# forbid to keep it, and each process would then compile torch and transformers again: 6 seconds.
export PYTHONDONTWRITEBYTECODE =

$(STAMP): setup.py pyproject.toml
	$(PYTHON) tools/check_machine.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade "pip>=24"
	$(BIN)/python -m pip install --no-compile --editable ".[test]"
	$(BIN)/python -c "from speechllm_plugin.workarounds.sndfile import link_sndfile; link_sndfile()"
	$(BIN)/speechllm comet install
	touch $@

# The core alone, in an environment of its own. LATEST_TORCH may name a smaller build: `LATEST_TORCH=torch==2.13.0+cpu`.
$(LATEST)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --upgrade "pip>=24"
	$(LATEST)/bin/python -m pip install --no-compile "$(LATEST_TORCH)" "transformers>=5" pytest --editable ".[lora,audio]"
	touch $@

demo: install
	$(BIN)/speechllm demo

grid: install
	$(BIN)/speechllm miniature
	$(BIN)/fairseq2 recipe run speech_llm sweep demo/sweep --launcher torchrun --processes 2 \
		--config-file recipes/speechllm_recipes/configs/sweeps/embedded.yaml
	$(BIN)/speechllm report demo/sweep --card

# Unbuffered: a run that is stopped has shown how far it came.
test: install lint
	FAIRSEQ2_EXTENSION_TRACE=1 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 \
		$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-latest: install $(LATEST)/.installed
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest $(LATEST_TESTS)
	SPEECHLLM_OTHER_PYTHON=$(LATEST)/bin/python FAIRSEQ2_EXTENSION_TRACE=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/tools/test_two_stacks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

gpu: install
	$(BIN)/speechllm gpu

bench: install
	$(BIN)/speechllm bench cif
	$(BIN)/speechllm bench ctc-collapse

docs: install
	$(BIN)/python -m speechllm_tools.configuration_page docs/configuration.md
	$(BIN)/python -m speechllm_tools.known_keys recipes/speechllm_recipes/speech_llm/known_keys.json

clean-demo:
	rm -rf demo

# `make lab` opens the course, `make test` checks everything; both set up what they need from a bare clone.
PYTHON ?= python3
VENV ?= .venv
# Of the version that Colab has.
COLAB_PYTHON ?= python3.13
BIN := $(VENV)/bin
LAB_ARGS ?=
# uv, if it is there, takes the build of torch that suits the machine, for one without an NVIDIA card that without CUDA; pip
# installs if uv can't.
comma := ,
UV := $(shell command -v uv 2>/dev/null)
install = $(if $(UV),$(UV) pip install --python $(BIN)/python --torch-backend=auto --quiet $(1) ||) \
	$(BIN)/python -m pip install --quiet $(1)
# Test processes at once; they share the cores (conftest.py). Each may take 2 GB.
JOBS ?= 2
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder
NBVAL = -p no:cacheprovider --nbval-lax --nbval-sanitize-with tests/nbval.cfg --nbval-current-env --nbval-cell-timeout=1800
LESSONS = $(foreach n,02 04 further/04 03 06 05 01,$(wildcard notebooks/$(n)_*.ipynb))
SERVICE = $(foreach n,adapters files jobs tools,tests/openai_server/test_$(n).py)
OLDEST = tests/training tests/memory $(SERVICE) tests/test_models.py tests/test_quantization.py tests/test_attention.py \
	tests/test_generation.py tests/test_evaluation.py tests/test_retrieval.py

# The old versions convert the CPU model themselves: they once wrote another tokenizer than the new ones.
OLDEST_CACHE = $(abspath $(VENV)-oldest)/course-cache

.PHONY: lab lint facts test test-quick test-notebooks test-oldest test-oldest-all notebooks readme book bench laptop soak gpu colab clean

lab: $(VENV)/.lab
	$(BIN)/course lab $(LAB_ARGS)

# Ruff, formatting, types, notebooks older than their sources, facts older than a year: under a minute.
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/course build --check
	$(BIN)/python -m course_utils.facts

# As lint's last part, which only warns; this fails, for a machine that looks once a week.
facts: $(VENV)/.test
	$(BIN)/python -m course_utils.facts --strict

test: lint
	$(BIN)/course fetch
	$(BIN)/pytest $(PARALLEL)
	COURSE_SMALL=1 $(MAKE) test-notebooks
	$(MAKE) test-oldest

# Without notebooks, browser, model cache torture and old versions: a few minutes.
test-quick: $(VENV)/.test
	$(BIN)/pytest $(PARALLEL) -m "not slow and not index"

# Every lesson from top to bottom without a network, the longest first. `make test` does it on few examples; alone, at full size.
test-notebooks: $(VENV)/.test
	tests/without_network $(BIN)/pytest $(PARALLEL) $(NBVAL) $(LESSONS)

# The course on the oldest versions it supports, which are Colab's (tests/colab/), where these can break it: training beside the
# libraries, loading, quantization, the service's engine, and all code of a lesson on few examples. torch is this machine's.
test-oldest: $(VENV)-oldest/.test
	COURSE_CACHE=$(OLDEST_CACHE) $(VENV)-oldest/bin/course fetch
	COURSE_CACHE=$(OLDEST_CACHE) COURSE_SMALL=1 tests/without_network $(VENV)-oldest/bin/pytest $(PARALLEL) -m "not slow and not index" $(NBVAL) \
		notebooks/02_lora.ipynb $(OLDEST)

# All of it there. Grading runs on an instructor's machine, on whatever is installed there, and is left out.
test-oldest-all: $(VENV)-oldest/.test
	COURSE_CACHE=$(OLDEST_CACHE) $(VENV)-oldest/bin/pytest $(PARALLEL) -m "not slow and not index" --ignore=tests/grading

# README.md and docs/ from the newest records, and the table of claims.
readme: $(VENV)/.test
	$(BIN)/python benchmarks/release.py --write

notebooks: $(VENV)/.test
	$(BIN)/course build

# The course as a website, in build/book: for any static host, or open index.html. Nothing is executed. Its pages have Python
# if Pyodide has been fetched before; `course book --live` fetches it.
book: $(VENV)/.test
	$(BIN)/course book --out build/book

# Our training loop beside TRL's and a plain one, in turns; our estimates beside the allocator and other estimators. Writes
# dated tables and figures.
bench: $(VENV)/.test
	$(BIN)/python benchmarks/speed.py sft dpo
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python -m pip install --quiet fitcheck-llm
	$(BIN)/python benchmarks/estimates.py --peers
	$(BIN)/python -m pip install --quiet presidio-analyzer
	$(BIN)/python benchmarks/data_prep.py
	$(BIN)/python benchmarks/framework.py
	$(BIN)/python -m pip install --quiet 'transformers[serving]'
	$(BIN)/python benchmarks/service.py serving adapters
	$(BIN)/python benchmarks/clients.py
	$(BIN)/python -m pip install --quiet bpe-openai
	$(BIN)/python benchmarks/hosted.py tokens
	$(BIN)/python benchmarks/grading.py
	$(BIN)/course book --live --out build/book
	$(BIN)/python benchmarks/page_python.py build/book

# What models that people deploy make of the lessons' tasks: a day on two cores, run by run; goes on where it was cut off.
# Writes dated records and README's figure.
laptop: $(VENV)/.test
	$(BIN)/course fetch laptop
	$(BIN)/course fetch Qwen/Qwen2.5-Coder-1.5B-Instruct
	for name in tickets preferences rewards questions judge service lessons figure; do \
		$(BIN)/python benchmarks/laptop_$$name.py || exit 1; done

# What only a real GPU can say (benchmarks/gpu.py): memory, all lessons, speed, learning rates. Nothing else may be on it. Writes a
# dated record; goes on where it was cut off.
gpu: $(VENV)/.test
	$(BIN)/python benchmarks/gpu.py

# Every lesson as on Colab: its Python, its versions, the notebook's own install cell (tests/colab/). Needs COLAB_PYTHON. Writes
# a dated record, lesson by lesson; goes on where it was cut off.
colab: $(VENV)/.test
	$(BIN)/python -m tests.colab.run --venv $(VENV)-colab --python $(COLAB_PYTHON)

# Proofs that take long: three seeds instead of one, 50 prompts, 20 SIGKILLs, what data do to a model, every lesson on simulated
# GPUs. Writes dated records.
soak: $(VENV)/.test
	$(BIN)/python benchmarks/lora_seeds.py
	$(BIN)/python benchmarks/lora_sweep.py
	$(BIN)/python benchmarks/lora_sweep.py --write
	$(BIN)/python benchmarks/merged_tokens.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/data_quality.py
	$(BIN)/python benchmarks/label_noise.py
	$(BIN)/python benchmarks/service.py lifecycle kills
	$(BIN)/python benchmarks/hosted.py runs
	COURSE_SOAK=1 $(BIN)/pytest -m soak
	COURSE_SOAK=1 $(BIN)/pytest tests/test_models.py tests/openai_server/test_fuzz.py
	$(BIN)/python -m tests.gpu_simulation.run --record
	$(BIN)/python -m tests.gpu_simulation.run --record --true-size --tier t4 --tier a100
	$(MAKE) test-notebooks
	$(MAKE) test-oldest-all

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.lab: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV), once: 0.6 GB to download without CUDA, two to six minutes ...'
	$(call install,--editable '.[lab]')
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV), once: 0.7 GB to download without CUDA, two to six minutes ...'
	$(call install,--editable '.[lab$(comma)test$(comma)grading]')
	touch $@

$(VENV)-oldest/.test: pyproject.toml tests/colab/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --no-compile --constraint tests/colab/oldest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-colab build dist

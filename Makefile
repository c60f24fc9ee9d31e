# `make lab` opens the course, `make test` checks everything; both set up what they need from a bare clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LAB_ARGS ?=

.PHONY: lab test test-quick test-oldest notebooks bench soak gpu clean

lab: $(VENV)/.lab
	$(BIN)/course lab $(LAB_ARGS)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/course fetch
	$(BIN)/course build --check
	$(BIN)/pytest
	tests/without_network $(BIN)/pytest -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 notebooks/*.ipynb
	$(MAKE) test-oldest

# Without notebooks, browser, model cache torture and old versions: a minute or two.
test-quick: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/pytest -m "not slow and not index"

# The course on the oldest versions it supports, which are Colab's (tests/colab/); torch is this machine's. Grading runs on an
# instructor's machine, on whatever is installed there, and is left out here.
test-oldest: $(VENV)-oldest/.test
	$(VENV)-oldest/bin/pytest -m "not slow and not index" --ignore=tests/exercises/grading

notebooks: $(VENV)/.test
	$(BIN)/course build

# Our training loop beside TRL's and a plain one, in turns; our estimates beside the allocator and other estimators. Writes
# dated tables and figures.
bench: $(VENV)/.test
	$(BIN)/python benchmarks/speed.py sft dpo
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python -m pip install --quiet fitcheck-llm
	$(BIN)/python benchmarks/estimates.py --peers
	$(BIN)/python benchmarks/data_prep.py
	$(BIN)/python benchmarks/framework.py
	$(BIN)/python -m pip install --quiet 'transformers[serving]'
	$(BIN)/python benchmarks/service.py serving adapters
	$(BIN)/python benchmarks/grading.py

# Our estimates beside what a real GPU says. Needs one with 24 GB or more and nothing else on it.
gpu: $(VENV)/.test
	$(BIN)/python benchmarks/gpu.py

# Proofs that take long: three seeds instead of one, 50 prompts, 20 SIGKILLs, what data do to a model. Writes dated records.
soak: $(VENV)/.test
	$(BIN)/python benchmarks/lora_seeds.py
	$(BIN)/python benchmarks/merged_tokens.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/behaviour.py
	$(BIN)/python benchmarks/data_quality.py
	$(BIN)/python benchmarks/alignment.py
	$(BIN)/python benchmarks/service.py lifecycle kills
	COURSE_SOAK=1 $(BIN)/pytest tests/test_models.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.lab: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[lab]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[lab,test,grading]'
	touch $@

$(VENV)-oldest/.test: pyproject.toml tests/colab/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --constraint tests/colab/oldest.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist

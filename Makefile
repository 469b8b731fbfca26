# make run | test | test-formats | lint | bench, in environments of their own that are made when they are missing or out of date.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# make test: how many processes, with a thread each; a file's tests stay together.
JOBS ?= 2
# make bench: where its files go; where the environments of the libraries it compares with are (empty: without them);
# and where the one that is on no package index comes from, a path or a git URL.
BENCH ?= bench
PEERS ?= .venv-peers
CROSSCODER_LEARNING ?= git+https://github.com/science-of-finetuning/crosscoder_learning

BIN := $(VENV)/bin
# PyTorch first and alone, so that pip takes the build that fits this machine.
TORCH := $(shell grep '^torch==' constraints.txt)

# Two libraries of one import name, hence two environments; torch first, as above.
PEER_MARKS := $(if $(PEERS),$(PEERS)/dictionary_learning/.installed $(PEERS)/crosscoder_learning/.installed)

.PHONY: run test test-formats lint bench clean

run: $(VENV)/.installed
	$(BIN)/diffbench run --organism halfswap $(ARGS)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# What diffbench exports is loaded by the libraries that install from a package index, and what they save is imported.
test-formats: $(VENV)/.installed $(PEERS)/formats/.installed
	DIFFBENCH_PEERS='$(PEERS)/formats/bin/python' $(BIN)/python -m pytest tests/test_formats_peers.py $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed $(PEER_MARKS)
	PYTHONPATH=tests $(BIN)/python -m benchmarks --out $(BENCH) --peers '$(PEERS)' $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PEERS)/dictionary_learning/.installed: PEER := dictionary-learning==0.1.0
$(PEERS)/crosscoder_learning/.installed: PEER := $(CROSSCODER_LEARNING)
$(PEERS)/formats/.installed: PEER := sae-lens==6.54.12 dictionary-learning==0.1.0
# Some of what they ask for is built for another torch than the one at hand, and nothing of it is used here.
$(PEERS)/%/.installed: constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt numpy $(PEER)
	$(@D)/bin/python -c 'import torchvision' 2> /dev/null || $(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	$(@D)/bin/python -c 'import dictionary_learning'
	touch $@

# qkv in two commands: `make demo` shows it, `make test` checks it. Each sets up .venv on its first run.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lint-page bench browser tour docs

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BIOME := build/node/node_modules/.bin/biome
# What npm brings, together: it throws out what it is not told of.
NODE := axe-core@4.14.1 @biomejs/biome@2.6.8
NODE_READY := build/node/.ready-$(subst /,-,$(subst $() ,-,$(NODE)))
WORDS := qkv blorptastic transformerly unquestionify snorgle ziggurattle

help:
	@echo "make demo    train a Transformer to pronounce English words (about 5 minutes), measure it, and let it"
	@echo "             pronounce words that do not exist; once it is trained, measure and pronounce again"
	@echo "make test    check style and types, then run all fast tests"
	@echo "make lint    check style and types alone (ruff, mypy; the page's JavaScript with biome, after make browser)"
	@echo "make docs    build the reference of the Python API from its docstrings, into build/docs"
	@echo "make bench   measure qkv against its peers: make bench RUN=runs/… [PARTS=training.small,decoding] [QUICK=1]"
	@echo "make tour    run the pages of docs/tour and draw their pictures anew"
	@echo "make browser what the page of qkv inspect needs to be checked, by npm: axe-core beside Debian's chromium, biome"
	@echo "make setup   only prepare .venv, as the others do when it is missing or out of date"
	@echo
	@echo "Another Python: make setup PYTHON=python3.12"

setup: $(READY)
	@echo "==> .venv is ready. Use it with: source .venv/bin/activate"

$(READY): pyproject.toml constraints.txt
	@echo "==> Setting up .venv: qkv and all it needs, in the versions of constraints.txt (a few minutes, once)"
	@command -v $(PYTHON) > /dev/null || \
		{ echo "There is no $(PYTHON) here. On Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "qkv needs Python 3.11 or newer. Name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@# The two variables pin what builds the package as well: older pips read the first, newer ones the second.
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: $(READY)
	@if [ ! -e data/cmudict ]; then \
		echo "==> Writing the pronouncing dictionary to data/cmudict"; \
		$(BIN)/python recipes/data/cmudict.py data/cmudict; \
	fi
	@if [ ! -e runs/demo ]; then \
		echo "==> Training on recipes/demo.yaml: spelling in, pronunciation out. About 5 minutes on 2 cores"; \
		$(BIN)/qkv train recipes/demo.yaml; \
	else \
		echo "==> The run runs/demo exists already, so nothing is trained. To train anew: rm -r runs/demo"; \
		echo "    If its training was interrupted, go on: $(BIN)/qkv train recipes/demo.yaml --resume"; \
	fi
	@echo "==> Measuring on words that were not in training (WER: words wrong in %, PER: phones wrong in %)"
	@$(BIN)/qkv evaluate runs/demo
	@echo "==> Pronouncing words that do not exist"
	@printf '%s\n' $(WORDS) | $(BIN)/qkv translate runs/demo | paste <(printf '%s\n' $(WORDS)) -
	@echo "==> Your turn: $(BIN)/qkv translate runs/demo"

browser: $(NODE_READY)

$(NODE_READY):
	@echo "==> Installing $(NODE) into build/node: they check the page's accessibility and its JavaScript"
	@command -v npm > /dev/null || { echo "There is no npm here. On Debian: apt-get install npm" >&2; exit 1; }
	@npm install --prefix build/node --no-save --no-audit --no-fund --silent $(NODE)
	@touch "$@"

lint: $(READY)
	@echo "==> Checking style: ruff"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo "==> Checking types: mypy"
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory lint-page

# Left out where npm has not brought what it takes, unless QKV_REQUIRE_BROWSER says that nothing may be.
lint-page:
	@if [ -x $(BIOME) ]; then \
		echo "==> Checking the page's JavaScript: biome"; $(BIOME) lint --error-on-warnings; \
	elif [ -n "$${QKV_REQUIRE_BROWSER:-}" ]; then \
		echo "There is no biome in build/node: make browser" >&2; exit 1; \
	else \
		echo "==> Not checking the page's JavaScript: that takes make browser, once"; \
	fi

test: lint
	@echo "==> Running the tests: two at a time, one thread each"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

bench: $(READY)
	@$(BIN)/python benchmarks/peers/run.py $(if $(PARTS),--parts $(PARTS)) $(if $(RUN),--run $(RUN)) \
		$(if $(THREADS),--threads $(THREADS)) $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

tour: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python docs/tour/draw.py

docs: $(READY)
	@$(BIN)/python docs/api.py

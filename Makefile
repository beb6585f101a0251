# Every target is one line that you can type yourself once `make setup` has made .venv and it is first in PATH:
#     export PATH="$PWD/.venv/bin:$PATH"
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SHELL := /bin/sh
.DEFAULT_GOAL := help
REVS ?= $(REV)

# The first Python that is new enough and can make an environment. A name in PATH is not enough: it may be a launcher
# for a version that is not there, or a Debian Python without its venv package.
CANDIDATES := python3.13 python3.12 python3.11 python3.14 python3 python
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
READY := .venv/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s  %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make .venv with everything in it (the other targets do this by themselves)

run: $(READY) ## Build what specs/experiment.yaml describes: corpus, tokenizer, model, validation, exports
	foundry run

test: $(READY) ## Run the tests
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

test-slow: $(READY) ## Run the tests that take minutes or need extras
	pip install -q -c constraints.txt -e '.[gguf,hub,track]' && pytest -m slow

check: $(READY) ## Check style, types, layers, schemas and the spec
	ruff check . && ruff format --check . && mypy && pytest -q tests/test_layers.py tests/test_schemas.py && foundry check

compare: $(READY) ## Compare settings and results of commits, runs, this folder (REVS="main now")
	foundry compare $(REVS)

plots: $(READY) ## Draw the curves of the last run into artifacts/plots/index.html
	foundry plots

bench: $(READY) ## Measure training, tokenizer and inference speed on this machine
	python tests/bench/run.py

clean: ## Remove the environment, results and caches; the DVC cache and reports stay
	rm -rf .venv .work artifacts dvc_plots dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY):
	@set -e; \
	for name in $(CANDIDATES); do \
	  if "$$name" -c '$(SUITABLE)' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11 to 3.14 with the venv module was found." >&2; \
	  echo "  Debian, Ubuntu: sudo apt install python3 python3-venv   macOS: brew install python   or: https://www.python.org" >&2; \
	  exit 1; \
	fi; \
	echo "setting up .venv with $$($$python --version) (about 1.3 GB, once, a minute or a few) ..."; \
	rm -f .venv/.ready-*; \
	"$$python" -m venv .venv; \
	.venv/bin/python -m pip install -qq --disable-pip-version-check --prefer-binary -c constraints.txt -e '.[dev,plots,sweep,vision]'; \
	touch $@; \
	echo "setting up .venv: done"

.PHONY: help setup run test test-slow check compare plots bench clean

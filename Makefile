# make demo   the whole chain on a small data set; prints the path of its report
# make test   all tests          make lint   formats, types
# make golden the kept generated C of tests/export/golden anew, after a change of the generator
# make fuzz   damaged files and requests for FUZZ_SECONDS (60) per test
# make setup  the tools and .venv; demo and test do it themselves
# PIP_ARGS    extra arguments for pip, such as --extra-index-url for CPU-only torch

SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
SOURCES := $(shell find firmware tests/fuzz -name '*.[ch]')

.PHONY: setup demo test lint golden clean
.DELETE_ON_ERROR:

setup: $(VENV)/.dev
demo: $(VENV)/.demo
	$(VENV)/bin/cgate demo
test: $(VENV)/.dev
	$(PYTHON) -m pytest -n 2 $(PYTEST_ARGS)
fuzz: $(VENV)/.dev
	CGATE_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(PYTHON) -m pytest tests/fuzz $(PYTEST_ARGS)
lint: $(VENV)/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	clang-format --dry-run -Werror $(SOURCES)
golden: $(VENV)/.dev
	PYTHONPATH=export:tests/support $(PYTHON) tests/support/golden_code.py
clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps make a second call cheap, and a change of the requirements install again.
$(VENV)/.%: pyproject.toml constraints.txt host_tools/setup.sh
	host_tools/setup.sh $(VENV) $* $(PIP_ARGS)
	touch $@

# make demo, make test and make bench set up what they need in VENV, once. BENCH_OPTIONS=--quick for a short bench.
# WORKERS: processes that the tests run in, of up to 5 GB each.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench clean

demo: $(INSTALLED)
	$(BIN)/python -m tf_mrsr.demo --output demo_output --overwrite

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e ".[demo,test]"
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1 || true  # as pip would, but on all cores
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output bench_output

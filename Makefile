# The commands of this project. The first call makes .venv and installs into it; later calls are quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# One thread per test process: more would fight for the same cores.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test lint format sbom clean

demo: $(VENV)/.installed-test  ## segment the two sample patients and show the scores
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed-test  ## all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.installed-dev  ## style, spelling, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sbom: $(VENV)/.installed-sbom  ## sbom.json: what is installed, with versions and licences (CycloneDX)
	$(BIN)/cyclonedx-py environment $(VENV) --output-format JSON --output-file sbom.json

clean:  ## remove .venv, caches and results of the demo
	rm -rf $(VENV) build dist demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find differseg_med tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than pyproject.toml when the dependencies have changed: install again.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

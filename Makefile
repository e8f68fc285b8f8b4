# The commands of this project. The first call makes .venv and installs into it; later calls are quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# One thread per test process: more would fight for the same cores. Compiled modules are kept whatever the shell says:
# every process that a test starts would compile the package again.
# worksteal (below) gives neighbours to one process, so that fixtures of a file are made once.
# Everything that we write is forced to the disk before it gets its name, tens of milliseconds a file on a busy disk:
# where memory has 8 GB free for files, from which programs may be started too, those of tests lie there.
ROOM := $(shell grep -s ' /dev/shm ' /proc/mounts | grep -q noexec || \
  df --output=avail --block-size=1G /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 >= 8 {print "/dev/shm"}')
TEST_ENV := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(if $(ROOM),TMPDIR=$(ROOM))

.PHONY: demo test test-docs test-foreign test-label test-wheel lint format docs dist manifests sbom clean

demo: $(VENV)/.installed-test  ## segment the two sample patients and show the scores
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed-test  ## all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not docs"

# Not part of test, which has twelve minutes.
test-docs: $(VENV)/.installed-test  ## every command of README, docs and bundle cards, on tiny images
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m docs tests/test_docs.py

# Each export and verb through the programs of others: those that make test has, and OHIF's adapters, axe and Firefox.
FOREIGN := tests_foreign tests/export tests/io/test_slicer.py tests/test_pacs.py tests/test_serve.py tests/reports tests/review
test-foreign: $(VENV)/foreign/.installed $(VENV)/.installed-dev  ## what others read; a program that is missing fails
	CI=true $(TEST_ENV) DIFFERSEG_NODE_MODULES=$(CURDIR)/$(VENV)/foreign/node_modules \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(FOREIGN)

$(VENV)/foreign/.installed: tests_foreign/package.json
	mkdir -p $(VENV)/foreign
	cp tests_foreign/package.json $(VENV)/foreign/
	cd $(VENV)/foreign && npm install --no-audit --no-fund --ignore-scripts
	touch $@

# Not part of test: it needs an environment of its own, and tests use no network. Its packages lie over ours: MONAI Label
# wants an older pydicom, and the same torch and MONAI.
test-label: $(VENV)/label/.installed  ## a real server of MONAI Label with the app in monailabel/
	$(TEST_ENV) DIFFERSEG_LABEL_PYTHON=$(CURDIR)/$(VENV)/label/bin/python $(BIN)/python -m pytest tests_label

$(VENV)/label/.installed: tests_label/monailabel.txt tests_label/beside.txt $(VENV)/.installed-test
	$(BIN)/python -m venv $(VENV)/label
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > \
	  "$$($(VENV)/label/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz_ours.pth"
	$(VENV)/label/bin/python -m pip install --quiet --no-deps --requirement tests_label/monailabel.txt
	$(VENV)/label/bin/python -m pip install --quiet --requirement tests_label/beside.txt
	touch $@

lint: $(VENV)/.installed-dev  ## style, spelling, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## the site, into site/; a broken link or a missing reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

dist: $(VENV)/.installed-build  ## wheel and sdist, into dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# In an environment of its own, far from the checkout.
test-wheel: dist  ## the wheel alone: sample, predict, plan, new, train, evaluate
	$(TEST_ENV) $(BIN)/python scripts/check_wheel.py dist

manifests: $(VENV)/.installed-test  ## the hashes of our bundles' configurations and weights, after one of them changed
	for bundle in bundles/*; do $(BIN)/differseg-med lint-bundle $$bundle --write-manifest || exit 1; done

# In an environment of its own: what CycloneDX brings makes every import of MONAI seconds longer.
sbom: $(VENV)/.installed-test  ## sbom.json: what is installed, with versions and licences (CycloneDX)
	test -x $(VENV)/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv $(VENV)/sbom && \
	  $(VENV)/sbom/bin/python -m pip install --quiet "cyclonedx-bom>=4.0"; }
	$(VENV)/sbom/bin/cyclonedx-py environment $(BIN)/python --output-format JSON --output-file sbom.json

clean:  ## remove .venv, caches and results of the demo
	rm -rf $(VENV) build dist site demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find differseg_med tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than pyproject.toml when the dependencies have changed: install again.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

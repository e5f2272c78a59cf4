# Two commands set everything up: `make demo` and `make test`. The environment is .venv; a second call installs nothing.

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PARITY := .parity
MAPPING := .mapping
SERVING := .serving
ACCELFORGE := .accelforge
PYTHON312 ?= python3.12
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format build docs web results parity peers mapping serving versions mutate
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13       the Python (3.11 or later) that makes $(VENV)"
	@echo "  PYTHON312=python3.12    the Python 3.12 that AccelForge needs (make mapping leaves it out where there is none)"
	@echo "  TORCH_INDEX=URL         the index that torch alone is taken from,"
	@echo "                          such as https://download.pytorch.org/whl/cpu for the small CPU build"

demo: $(VENV)/core.stamp ## set up what running needs, and take the tour
	$(BIN)/lamina demo

test: $(VENV)/dev.stamp ## set up the development tools, and run the tests (none needs a network)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 # two workers of two threads each would wait for each other

lint: $(VENV)/dev.stamp ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/dev.stamp ## mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/dev.stamp ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

results: $(VENV)/dev.stamp ## write README, docs and cards, every figure from its record or counted (ADOPT=1: keep edits made in them)
	$(BIN)/python docs/results.py $(if $(ADOPT),--adopt)

web: web/node_modules/.package-lock.json ## check and build the explorer's page from web/ (needs node; what it builds is committed)
	cd web && npm run check && npm run build

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@

docs: $(VENV)/docs.stamp ## build the documentation into docs/_site, its notebooks run
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_site

parity: $(PARITY)/parity.stamp ## compare with torchvision, timm and transformers, in .parity (another torch, 6 GB)
	$(PARITY)/bin/python benchmarks/parity.py

peers: $(PARITY)/peers.stamp ## count beside six other counters, timm's and torchvision's networks, in .parity
	$(PARITY)/bin/python -m pytest -W default tests/peers
	$(PARITY)/bin/python -W ignore benchmarks/cost_conformance.py
	$(PARITY)/bin/python -W ignore benchmarks/cost_speed.py
	$(PARITY)/bin/python -W ignore benchmarks/timm_counts.py
	$(PARITY)/bin/python -m tests.zoo.real_counts --check

# AccelForge needs Python 3.12; where there is none it is left out, and the output says so.
mapping: $(MAPPING)/mapping.stamp $(if $(shell $(PYTHON312) -c "print(1)" 2>/dev/null),$(ACCELFORGE)/accelforge.stamp) ## find mappings beside zigzag-dse and AccelForge, in .mapping and .accelforge
	$(BIN)/python benchmarks/mapping.py --peers

serving: $(SERVING)/serving.stamp ## load the server, and LitServe in .serving beside it
	$(BIN)/python benchmarks/serving.py --peers

versions: ## run the tests of counting on the oldest, the tested and the newest torch, each in .versions
	TORCH_INDEX=$(TORCH_INDEX) $(PYTHON) tests/versions.py

mutate: $(VENV)/dev.stamp ## put faults into a copy of the code one at a time: the share that the tests catch
	$(BIN)/python tests/mutate.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Lamina needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# From an index of its own torch comes without its dependencies: they come from the usual one, in the tested versions.
$(VENV)/torch.stamp: constraints.txt | $(BIN)/python
	$(INSTALL) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/core.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/core.stamp $@

$(VENV)/docs.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(INSTALL) -e '.[docs]'
	@touch $(VENV)/core.stamp $@

# Those libraries need another torch than the tested one, so the constraints do not hold here.
$(PARITY)/parity.stamp: Makefile pyproject.toml
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.23.0 sentencepiece==0.2.3 -e .
	@touch $@

$(PARITY)/peers.stamp: $(PARITY)/parity.stamp
	$(PARITY)/bin/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		torch==2.14.1 fvcore==0.1.5.post20221221 ptflops==0.7.5 thop==0.1.1.post2209072238 torchinfo==1.8.0 calflops==0.3.2 \
		onnx pytest
	@touch $@

$(SERVING)/serving.stamp: Makefile $(VENV)/dev.stamp
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		torch==2.13.0 litserve==0.2.19 'ray[serve]==2.60.0' -e '.[serve]'
	@touch $@

$(MAPPING)/mapping.stamp: Makefile $(VENV)/core.stamp
	$(PYTHON) -m venv $(MAPPING)
	$(MAPPING)/bin/python -m pip install --disable-pip-version-check zigzag-dse==3.9.1 six==1.17.0
	@touch $@

$(ACCELFORGE)/accelforge.stamp: Makefile
	$(PYTHON312) -m venv $(ACCELFORGE)
	$(ACCELFORGE)/bin/python -m pip install --disable-pip-version-check accelforge==1.0.467
	@touch $@

# The README's commands. Each makes .venv when it is missing and installs again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := grib,verify,dev
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?= -n 2 --dist worksteal

.PHONY: demo test slow lint types clean

demo: $(INSTALLED)
	$(BIN)/afno-forecast demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu" --timeout 900

lint: $(INSTALLED)
	$(BIN)/ruff check

types: $(INSTALLED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

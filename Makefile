PYTHON ?= python3
BIN = .venv/bin

.PHONY: install lint test clean

# The stamp makes later runs skip the installation until a requirements file changes.
.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

install: .venv/installed

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv .pytest_cache .ruff_cache

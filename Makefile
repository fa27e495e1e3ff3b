# The four commands of the house: `make demo`, `make serve`, `make test`, `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# In so many processes the tests run; see tests/conftest.py for which go together.
PROCESSES ?= 2
STAMP := $(VENV)/.setup-done

.PHONY: setup demo serve test lint types unit clean

setup: $(STAMP)

# One virtual environment from the pinned set; made again when the pins or the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[demo,test]'
	@touch $@

demo: setup
	$(BIN)/neuron-atlas demo --out demo-atlas

serve: setup
	$(BIN)/neuron-atlas serve demo-atlas

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

# One thread for each process: with as many as there are CPUs they would wait for one another.
unit: export OMP_NUM_THREADS ?= 1
unit: setup
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup

test: lint types unit

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Every target sets up what it needs; see scripts/setup.
.PHONY: demo test check bench proto setup clean
PYTHON ?= python3
BIN := .venv/bin

setup:
	@PYTHON="$(PYTHON)" scripts/setup dev

demo:
	@PYTHON="$(PYTHON)" scripts/setup run
	@$(BIN)/hotbed run examples/hello.py; status=$$?; $(BIN)/hotbed server stop; exit $$status

test: setup
	@$(BIN)/python -m pytest

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@scripts/proto --check

bench:
	@PYTHON="$(PYTHON)" scripts/setup bench
	@$(BIN)/python benchmarks

proto: setup
	@scripts/proto

clean:
	rm -rf .venv .stamps dist build benchmarks/out .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Targets for contributors. Each installs what it needs through uv; .ci/run calls the same targets.

UV := uv run

.PHONY: help fmt lint types test-fast test parity fuzz docs notebook tables rooms

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

fmt:  ## format the code and fix what ruff can fix
	$(UV) ruff format .
	$(UV) ruff check --fix .

lint:  ## format, style, spelling, import contracts, dependencies, diagram of the rooms
	$(UV) ruff format --check .
	$(UV) ruff check .
	$(UV) codespell
	$(UV) lint-imports
	$(UV) deptry .
	$(UV) python docs/rooms.py --check

types:  ## static types
	$(UV) mypy

test-fast:  ## tests that are not marked slow
	$(UV) pytest -m "not slow"

test:  ## all tests
	$(UV) pytest

parity:  ## run the original packages beside ours (about 5 GB) and write the table in docs/benchmark.md
	$(UV) python -m tests.parity

fuzz:  ## read 100,000 random files with each reader (hours)
	SEGMENTDREAMER_FUZZ_CASES=100000 $(UV) pytest tests/fuzz

docs:  ## build the documentation in site/
	$(UV) sphinx-build -W -q -c docs . site

notebook:  ## execute examples/distill.py again and write docs/distill.ipynb
	$(UV) python docs/notebook.py

tables:  ## write docs/recipe.md, the table of all recipe keys
	$(UV) python -m sctd.recipe.presets > docs/recipe.md

rooms:  ## redraw docs/images/architecture.svg after imports have changed
	$(UV) python docs/rooms.py

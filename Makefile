# Everything below works on a fresh clone with Python 3.11+ and make: .venv is made on the first call.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test fuzz style cards quality clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# Not compiled in advance: most modules of the dependencies are never imported.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[test]"
	touch $@

demo: .venv/installed  ## The main job on the built-in market, in under 3 minutes
	$(BIN)/forge-hf demo --output-dir runs/demo

test: .venv/installed  ## Lint and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

fuzz: .venv/installed  ## Damage many files of every kind, and count what is refused (minutes)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/bad_input --fuzz-examples 2500 --fuzz-results results/bad_input.json

style: .venv/installed  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cards: .venv/installed  ## Render model_cards/ from results/
	$(BIN)/python model_cards/render.py

quality: .venv/installed  ## The retrieval quality runs of results/ (hours; resumable)
	benchmarks/quality.sh

clean:  ## Remove .venv
	rm -rf .venv

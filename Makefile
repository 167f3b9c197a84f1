# `make demo`, `make test`, `make check` and the others: each sets up its own environment first, once.
PYTHON ?= python3
VENV ?= .venv
NEWEST ?= .venv-newest
# One process for each core, four at most; a file's tests stay together, the longest come first.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP := -m pip --disable-pip-version-check
# The package alone; the package with what its tests and checks need.
READY := $(VENV)/.ready
READY_TO_TEST := $(VENV)/.ready-to-test
TOYS := demo-work/starter/.ready

.PHONY: environment demo demo-toy test test-newest check docs bench clean

environment: $(READY_TO_TEST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) install -c constraints.txt -e .
	touch $@

$(READY_TO_TEST): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) install -c constraints.txt -e ".[test,check]"
	touch $(READY) $@

# The whole method on the collection and the models inside the package: minutes on two cores.
demo: $(READY)
	$(VENV)/bin/sptar run configs/starter.yaml --work demo-work/work
	@echo
	@echo 'Ask the retriever that came out of it:'
	@echo '  $(VENV)/bin/sptar search "is my dog allowed on the boat" --run starter --work demo-work/work'
	@echo 'After `. $(VENV)/bin/activate` plain `sptar` does as well.'

$(TOYS): $(READY) src/sptar/starter/toy.py $(wildcard src/sptar/starter/toy_collection/*.jsonl)
	$(VENV)/bin/python -m sptar.starter.toy demo-work/starter
	touch $@

# The same on toy models and a toy collection: it shows that everything runs, and its numbers mean
# nothing.
demo-toy: $(TOYS)
	$(VENV)/bin/sptar run configs/demo.yaml --work demo-work/work
	@echo "Toy models, toy collection: these numbers mean nothing. The report lies below demo-work/work/runs/demo."

test: $(READY_TO_TEST)
	$(VENV)/bin/python $(PYTEST)

# The same in an environment of its own, with the newest versions that pyproject.toml allows.
test-newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(PIP) install --upgrade --upgrade-strategy eager -e ".[test]"
	$(NEWEST)/bin/python $(PYTEST) --newest

check: $(READY_TO_TEST)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The documentation as a site, in build/site.
docs: $(READY_TO_TEST)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet

# What the project claims about speed, measured on this machine; nothing else should run beside it.
bench: $(READY)
	$(VENV)/bin/python $(PIP) install -q -c constraints.txt -e ".[bench]"
	for name in augmentation example_selection tuning weak_filter encode_and_search growth start_up; do \
		$(VENV)/bin/python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit 1; done

clean:
	rm -rf demo-work build dist

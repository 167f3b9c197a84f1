# `make demo`, `make test`, `make check` and the others: each sets up its own environment first, once.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
TOYS := demo-work/starter/.ready

.PHONY: environment demo demo-toy test check bench clean

environment: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
		-e ".[test,check]"
	touch $@

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

test: $(READY)
	$(VENV)/bin/python -m pytest

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What the project claims about speed, measured on this machine; nothing else should run beside it.
bench: $(READY)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[bench]"
	for name in augmentation example_selection tuning weak_filter encode_and_search growth start_up; do \
		$(VENV)/bin/python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit 1; done

clean:
	rm -rf demo-work build dist

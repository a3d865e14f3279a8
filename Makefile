# The README's commands. Each target makes the environment it needs.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: study test bench lint types kernels spots gpu fuzz clean

study: $(READY)
	$(VENV)/bin/wsfast study

test: $(READY)
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--cov=wsfast --cov=reference --cov-report=term:skip-covered --cov-fail-under=90

bench: $(READY)
	$(PY) -m bench

# Every shipped Triton launch, compiled for sm_80, sm_90, sm_100 and gfx942; needs no GPU, fails on a spill or too much shared memory.
kernels: $(READY)
	$(PY) -m wsfast.kernels.triton.aot

# A program of every shipped launch at full size, from its PTX and in the interpreter: hours. TARGET: sm_80 or sm_90.
TARGET ?= sm_90
spots: $(READY)
	$(PY) tests/spots.py $(TARGET)

# On a machine with a GPU: the tests of its kernels, then the benchmark, in one JSON file under bench/results.
gpu: $(READY)
	$(PY) -m bench.gpu

# Random bytes as weight sets, for a minute; needs Linux on x86-64.
SECONDS ?= 60
fuzz: $(READY)
	$(PY) -m pip install --quiet 'atheris>=2.3'
	$(PY) tests/fuzz_storage.py -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=4096

lint: $(READY) types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# mypy sees the three folders as the one package they install as.
types: $(READY)
	rm -rf .types && mkdir -p .types/wsfast
	cp -rs $(CURDIR)/wsfast/. .types/wsfast/
	cp -rs $(CURDIR)/kernels $(CURDIR)/reference .types/wsfast/
	cd .types && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml -p wsfast

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsfast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .types build *.egg-info

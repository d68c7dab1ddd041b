# make example     a few synthetic radiographs in example/all.png, in a minute
# make demo        simulated radiographs in, runs/demo/report.html out
# make test        ruff, pyright and pytest, the first two next to the third
# make bench       speed compared with peers; ONLY=name selects one measurement
# make experiment  behaviour of generators, metrics and the simulator; ONLY=name selects one
PYTHON ?= python3
STUDY ?= demo
WORKDIR ?= runs/$(STUDY)
export TF_CPP_MIN_LOG_LEVEL = 3
# Without a GPU, two devices on the CPU share each batch, which keeps two cores busy
# (docs/decisions.md).
demo bench experiment: export JAX_NUM_CPU_DEVICES ?= 2

.PHONY: example demo test lint unit bench experiment
.DELETE_ON_ERROR:

demo: .venv/installed
	.venv/bin/femur study --config=configs/study.py:$(STUDY) --workdir=$(WORKDIR)

example: .venv/installed
	.venv/bin/femur example --out=example

test: .venv/installed
	$(MAKE) --no-print-directory --jobs=2 lint unit

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

unit: .venv/installed
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

bench: .venv/installed
	.venv/bin/python -m benchmarks $(if $(ONLY),--only $(ONLY))

experiment: .venv/installed
	.venv/bin/python -m benchmarks.experiments $(if $(ONLY),--only $(ONLY))

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Needs only Python 3.11 or newer and make.
PYTHON ?= python3
# .venv belongs to the Python that made it; another one gets an environment of its own: .venv-3.13.
MINOR  := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)
HELD   := $(shell sed -n 's/^version[_info]* *= *\([0-9]*\.[0-9]*\).*/\1/p' .venv/pyvenv.cfg 2> /dev/null)
VENV   := .venv$(addprefix -,$(if $(HELD),$(filter-out $(HELD),$(MINOR))))
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Every target installs the pinned versions that the tests were last green with: on Python 3.11 the
# last that know it, elsewhere the newest.
PINS   := $(if $(filter 3.11,$(MINOR)),constraints.txt,constraints-newest.txt)
EXTRAS_RUN  := mtl,cluster
EXTRAS_TEST := mtl,cluster,plot,generate,materials-project,dev,docs
EXTRAS_DOCS := docs
# Arguments of the main job, e.g. `make reproduce ARGS="--preset small --data-dir data"`.
ARGS   ?=

.PHONY: help reproduce test test-fast lint types check check-all slow compat benchmarks docs house \
	gpu-kit gpu-kit-rehearsal clean

help:
	@echo "make reproduce   install and run the main job (ARGS=... is passed on)"
	@echo "make test        install, then lint, types, all quick tests and the pages"
	@echo "make test-fast   the core's rooms in float32, for work on them (two minutes)"
	@echo "make check-all   quick and slow tests in both precisions, compiled as for users (hours)"
	@echo "make slow        the full accuracy and coverage studies (hours)"
	@echo "make compat      the core's tests against the oldest and the newest JAX (20 minutes)"
	@echo "make benchmarks  install, measure every claim on speed (half an hour), draw docs/benchmarks.md"
	@echo "make docs        install and build the pages of docs/ into site/"
	@echo "make house       draw the modules and what they use, for docs/built.md"
	@echo "make gpu-kit     build gpu-kit/, what travels to a machine with a GPU (docs/gpu.md)"
	@echo "make gpu-kit-rehearsal   build it from the embedded data and run all of it, tiny, on the CPU"
	@echo "make clean       remove the virtual environment and caches"

# A virtual environment without a working pip is one that was being made when something stopped it.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hessspec needs Python 3.11 or newer, this is " + sys.version)'
	@$(PIP) --version > /dev/null 2>&1 || { echo "$(PYTHON) -m venv $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

# What an interrupted pip leaves behind cannot always be mended by pip: it is then made anew.
define install
	@if [ -e $(VENV)/.installing ]; then \
		echo "the last installation did not end; $(VENV) is made anew"; \
		$(PYTHON) -m venv --clear $(VENV) && touch $(VENV)/.made; \
	fi
	@touch $(VENV)/.installing
	$(PIP) install --constraint $(PINS) --editable '.[$(1)]'
	@rm $(VENV)/.installing
endef

$(VENV)/.run: $(VENV)/.made pyproject.toml $(PINS)
	$(call install,$(EXTRAS_RUN))
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml $(PINS)
	$(call install,$(EXTRAS_TEST))
	@touch $@ $(VENV)/.run $(VENV)/.docs

$(VENV)/.docs: $(VENV)/.made pyproject.toml $(PINS)
	$(call install,$(EXTRAS_DOCS))
	@touch $@

reproduce: $(VENV)/.run
	$(BIN)/python -m hessspec_mtl.reproduce $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/basedpyright

# The core is tested twice: in float32, which users have, and in float64. Each worker keeps one thread,
# and a file stays with one worker, since its tests share what they set up and what was compiled.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile
# What `make test-fast` runs: every module of the core by itself, without the studies across them.
ROOMS  ?= $(addprefix tests/hessspec/,base operators krylov trace spectrum)

check: $(VENV)/.test
	JAX_ENABLE_X64=0 $(PYTEST)
	JAX_ENABLE_X64=1 $(PYTEST) -m "not slow and not network and not any_dtype" tests/hessspec

# The pages last: their links are cheap to see dead (5 s of a core, and 12 s to install what builds them).
test: lint types check docs

test-fast: $(VENV)/.test
	JAX_ENABLE_X64=0 $(PYTEST) $(ROOMS)

check-all: $(VENV)/.test
	TESTS_COMPILE=full JAX_ENABLE_X64=0 $(PYTEST) -m "not network"
	TESTS_COMPILE=full JAX_ENABLE_X64=1 $(PYTEST) -m "not network" tests/hessspec

slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow

# Needs no environment: it makes one for each pair of Python and JAX whose Python is at hand.
compat:
	$(PYTHON) tests/compat.py $(ARGS)

# Strict: dead links, anchors that are not there and pages outside of the navigation are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

house: $(VENV)/.test
	$(BIN)/python -m docs.house_picture

# The other libraries have environments of their own: python -m benchmarks.peers.install
benchmarks: $(VENV)/.run
	$(BIN)/python -m benchmarks $(ARGS)

gpu-kit: $(VENV)/.run
	$(BIN)/python -m benchmarks.gpu.kit $(ARGS)

gpu-kit-rehearsal: $(VENV)/.run
	$(BIN)/python -m benchmarks.gpu.kit --sets molecules crystals --to gpu-kit-rehearsal
	$(BIN)/python -m benchmarks.gpu.rehearse --kit gpu-kit-rehearsal

clean:
	rm -rf gpu-kit gpu-kit-rehearsal .venv .venv-* site .pytest_cache .ruff_cache .hypothesis

# make repro   the whole pipeline with the profile of params.yaml
# make test    the tests, the linters, the type check and the layer check
# make test-all  these, and the tests that take long; one opens a page in Chromium (apt-get install chromium)
# make server  Prefect's server and pages, an S3 server and the served flows, until Ctrl-C
# Each builds the environment that it needs, once, in .venv.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

TWO_FILES := --numprocesses 2 --dist loadfile --no-loadscope-reorder   # at a time

.PHONY: repro test test-all server environment lock

repro: environment
	dvc repro

test: environment
	ruff format --check .
	ruff check .
	lint-imports
	hadolint Dockerfile
	check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	pyright
	pytest $(TWO_FILES) -m "not slow"

test-all: test
	pytest $(TWO_FILES) -m slow

server: environment
	@exec python -m flows.server

environment: .venv/.complete

# Everything is named and hashed in the locks, so nothing is resolved at install time. What stages run with is lock.txt,
# which they depend on; the tools of those who develop stand apart, so that a new linter trains nothing again. What
# 8-bit optimizer states need lies in a folder that the tests name: merely installed, it slows every start.
.venv/.complete: requirements/lock.txt requirements/dev.txt requirements/8bit.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r requirements/lock.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
		--target .venv/8bit -r requirements/8bit.txt
	touch $@

# After a change of dependencies in pyproject.toml (needs uv).
LOCKED := uv pip compile --python-version 3.11 --override requirements/overrides.txt \
	--generate-hashes --no-emit-index-url --no-header --no-annotate
lock:
	$(LOCKED) pyproject.toml --output-file requirements/lock.txt
	$(LOCKED) --group dev --constraint requirements/lock.txt --output-file requirements/dev.txt
	echo 'bitsandbytes>=0.50' | $(LOCKED) --no-deps - --output-file requirements/8bit.txt

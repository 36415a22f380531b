# What people and CI run. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ARCH ?=
NATIVE := $(shell dpkg --print-architecture)
EMULATION := $(if $(filter-out $(NATIVE),$(ARCH)),--emulation)
# Trixie's systemd does not run under qemu-user.
RELEASE ?= $(if $(EMULATION),bookworm,trixie)

.PHONY: help
help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: tools
tools: .venv/installed ## install what this machine lacks (apt), and the pinned Python tools into .venv
	@tools/host.sh $(EMULATION) $(TESTS) $(MACHINES) $(MANY)

.venv/installed: requirements.lock
	@tools/host.sh
	@echo "Installing the pinned tools into .venv"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
	  --requirement requirements.lock
	@touch $@

.PHONY: model
model: .venv/installed ## make the demonstration model, and a sample shaped as SageMaker's, in .cache/models (cached by hash)
	@tools/demonstration_model.py .cache/models/demonstration
	@tools/sagemaker_sample.py .cache/models/sagemaker/model.tar.gz

.PHONY: demo
demo: tools model ## make a virtual Pi, provision it, verify it, say what stands (RELEASE=bookworm|trixie, ARCH=armhf|arm64, MIRROR=URL)
	@tools/demo.sh $(RELEASE)

# The scenario armhf emulates another architecture.
molecule test test-full: EMULATION = --emulation
molecule faults test-full: MACHINES = --machines
unit faults test test-full: TESTS = --tests
bench load test-full: MANY = --many

.PHONY: test
test: tools model ## everything that guards the project: the gate (45 minutes on 2 cores)
	@tools/tests.sh gate
	@echo "test: all of it passed in $$(( $$(date +%s) - $(BEGUN) )) s"

BEGUN := $(shell date +%s)

.PHONY: test-full
test-full: test ## the gate, and what takes hours: whole lives of fleets, drift of everything, killed runs, mutants
	@$(MAKE) demo
	@$(MAKE) demo ARCH=armhf
	@$(MAKE) reference
	@tools/tests.sh vm armhf_vm faults load drift firstboot collect offline pull reimage rollout secrets
	@E2E_KILLS=20 pytest tests/e2e/test_killed.py
	@$(MAKE) fuzz
	@$(MAKE) mutants

.PHONY: faults
faults: tools model ## break things on purpose, one after the other, and print what holds: an hour (FAULT=part of a row's name)
	@rm -f .cache/faults.txt
	@FAULT="$(FAULT)" tools/tests.sh faults; code=$$?; cat .cache/faults.txt || true; exit $$code

.PHONY: load
load: tools model ## provision 50 devices of which five fail, and print the time and the memory: half an hour (DEVICES=50)
	@E2E_DEVICES=$(DEVICES) tools/tests.sh load; code=$$?; grep ' at most' .cache/tests/load; exit $$code

DEVICES ?= 50

.PHONY: lint
lint: tools ## ansible-lint (production), yamllint, ruff, mypy --strict, shellcheck
	@echo "lint: ruff"; ruff check --quiet . && ruff format --check --quiet .
	@echo "lint: mypy"; mypy --no-error-summary plugins files roles tests tools benchmarks
	@echo "lint: yamllint"; yamllint --strict .
	@echo "lint: shellcheck"; shellcheck $(SCRIPTS)
	@echo "lint: ansible-lint"; ansible-lint -q

# Whatever their names: all that begin as scripts of a shell do.
SCRIPTS = $(shell git grep -lE '^\#!.*/(env )?(ba)?sh( |$$)')

.PHONY: unit
unit: tools ## unit and contract tests
	@pytest

.PHONY: molecule
molecule: tools model ## the molecule scenarios (SCENARIO=name for one)
	@tools/tests.sh $(SCENARIO)

.PHONY: reference
reference: .venv/installed ## prove conversions against MXNet 1.9.1 itself: a few minutes
	@python3 -m venv .cache/mxnet
	@.cache/mxnet/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  --requirement tests/reference/requirements.txt
	@MXNET_PYTHON=$(CURDIR)/.cache/mxnet/bin/python pytest -s tests/reference

.PHONY: bench
bench: tools model ## measure what it costs to know that nothing changed, and to provision a blank device: hours (HOSTS=1,10,50 ARCH=armhf BEFORE=COMMIT)
	@python3 -m venv .cache/pyinfra
	@.cache/pyinfra/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  --requirement benchmarks/pyinfra/requirements.txt
	@python -m benchmarks.fleet --hosts $(HOSTS) --release $(RELEASE) --first \
	  $(if $(ARCH),--architecture $(ARCH)) $(if $(BEFORE),--before $(BEFORE)) --write benchmarks/results$(if $(ARCH),-$(ARCH))

HOSTS ?= 1,10,50

.PHONY: fuzz
fuzz: .venv/installed ## look for input on which a reader fails or hangs, SECONDS=600 for each (TARGET=name for one)
	@pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps --upgrade \
	  --target .cache/atheris --requirement tests/fuzz/requirements.txt
	@for target in $(TARGET); do \
	  PYTHONPATH=.:collections:files/localcore:.cache/atheris python tests/fuzz/fuzz.py $$target --seconds $(SECONDS) || exit; \
	done

SECONDS ?= 600
TARGET ?= params archive symbol onnx group picture context ipc

.PHONY: sbom
sbom: .venv/installed ## write what control node and devices consist of as CycloneDX, into dist/sbom (ARGS="-i inventory/my-fleet --ask-vault-pass")
	@tools/sbom.py $(ARGS)

.PHONY: audit
audit: .venv/installed .cache/pip-audit/installed ## ask OSV whether vulnerabilities are known of the Python that is locked (Error 3: nothing was checked)
	@tools/audit.py

.cache/pip-audit/installed: tools/pip_audit/requirements.txt
	@uv venv --quiet --clear .cache/pip-audit
	@uv pip install --quiet --require-hashes --only-binary :all: --python .cache/pip-audit/bin/python --requirement $<
	@touch $@

.PHONY: mutants
mutants: tools model ## remove one task at a time and ask whether the tests notice: hours (ROLE="name ..." for some roles)
	@tools/mutants.py $(ROLE:%=--role %)

.PHONY: package
package: .venv/installed ## write the Lambda as the zip that the AWS console takes, into dist/
	@python3 files/beverage_classifier/package.py

.PHONY: collection
collection: .venv/installed ## write the Ansible collection into dist/
	@tools/build_collection.py

.PHONY: offline-bundle
offline-bundle: tools model ## write one file that a site without internet provisions from, into dist/ (RELEASE, ARCH, MODELS, SOURCES, PACKAGES)
	@tools/offline_bundle.py --release $(RELEASE) --architecture $(or $(ARCH),$(NATIVE)) --mirror "$(MIRROR)" \
	  --models $(MODELS) --sources $(SOURCES) --packages $(PACKAGES)

# Models of your own, or the one that demonstrates.
MODELS ?= .cache/models/demonstration

.PHONY: docs
docs: .venv/installed ## write what is generated in READMEs: inputs of roles, the table of roles
	@tools/docs.py

.PHONY: lock
lock: .venv/installed ## pin what pyproject.toml names, with hashes: all of it, and what a control node needs to run
	@uv pip compile $(PINS) --group dev pyproject.toml --output-file requirements.lock
	@uv pip compile $(PINS) --constraint requirements.lock pyproject.toml --output-file requirements-run.lock

PINS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: clean
clean: ## remove what this project made here: virtual Pis and images by their label, .venv, .cache, dist
	@tools/clean.sh

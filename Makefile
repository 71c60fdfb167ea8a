# Every target makes .venv when there is none. Two marker files make the second call instant: `demo` needs what a user
# installs, everything else also what developers do.
#   make TORCH_INDEX=https://download.pytorch.org/whl/cpu setup      wheels for CPU only, ROCm, ...; .venv remembers it
PYTHON ?= python3
BENCH ?=
GPU ?=
DATA ?=
PEER ?=
CIFAR ?=
VENV := .venv
BIN := $(VENV)/bin
INDEX := $(VENV)/.torch-index
TORCH_INDEX ?= $(shell cat $(INDEX) 2>/dev/null)
READY := $(VENV)/.ready
DEVELOP := $(VENV)/.ready-dev
# From TORCH_INDEX alone, where it is given: beside another index pip would take the newest of both.
torch = $(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet -c constraints.txt --index-url $(TORCH_INDEX) $(1))

.PHONY: setup demo test matrix conformance lint bench gpu lock clean

setup: $(DEVELOP)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12") if not (3, 10) <= sys.version_info[:2] <= (3, 13) else None'
	$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),echo '$(TORCH_INDEX)' > $(INDEX))
	$(call torch,torch torchvision)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEVELOP): $(READY)
	$(call torch,torchaudio)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train a classifier on real data and show its results
	$(BIN)/python -m vision.train

test: $(DEVELOP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

matrix: $(DEVELOP)  ## every example killed and resumed, in two processes, as a SageMaker job, on a stand-in for a GPU
	$(BIN)/python -m pytest -m matrix --numprocesses auto --dist loadfile

lint: $(DEVELOP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# sagemaker-training runs tuning trials. Its pins (protobuf 3, ...) fit no current environment, so it gets a folder of its
# own; where that can't be built (it needs a C compiler) its tests are skipped and say so.
TOOLKIT := $(VENV)/sagemaker-training
conformance: $(DEVELOP)  ## every example under AWS's own tools
	@test -d $(TOOLKIT) || $(BIN)/python -m pip install --quiet --no-deps --target $(TOOLKIT) sagemaker-training==5.1.4 \
		gevent greenlet inotify_simple paramiko invoke bcrypt pynacl retrying werkzeug zope.event zope.interface || true
	$(BIN)/python -m pytest -m conformance -ra --numprocesses auto

bench: $(DEVELOP)  ## figures measured here, into results/; BENCH="NAME..." chooses
	$(BIN)/python -m tests.bench $(BENCH) $(if $(DATA),--data $(DATA)) $(if $(PEER),--peer $(PEER)) $(if $(CIFAR),--cifar $(CIFAR))

.PHONY: results
results: $(DEVELOP)  ## docs/results.md and the table of the README, from results/
	$(BIN)/python -m tests.results

# No marker: a machine with a GPU may have its packages in place and no way to install others.
gpu:  ## every example and the GPU's figures on a machine with one, within five minutes
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.gpu $(GPU) $(if $(DATA),--data $(DATA)) $(if $(PEER),--peer $(PEER))

# Packages that torch pins itself (CUDA, Triton) are left out, so that the same file serves CPU and ROCm wheels.
lock:  ## refresh constraints.txt, the tested set of versions, from what pyproject.toml resolves to today
	test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-header --no-annotate --quiet \
		| grep -Ev '^(nvidia-|cuda-|triton)' > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Two commands set everything up on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
FACES ?=
PEER_PYTHON ?=

.PHONY: test-webcam fuzz mutants help install demo test test-all check zoo bench train-extras clean

help:
	@echo "make demo     set up the laptop side and see people recognized (no camera, no torch, no download of models)"
	@echo "make test     add the training side to the same environment and prove the installation (the quick tests)"
	@echo "make test-all every test, trainings and kills too; what .ci/run calls"
	@echo "make test-webcam  live commands on a machine with a real camera: make test-webcam WEBCAM_VM=program [PART=cameras|recognize|unplug]"
	@echo "make fuzz     mutated inputs at every place where files of strangers come in: make fuzz SEED=0 INPUTS=50000"
	@echo "make mutants  breaks lines of the product, one at a time, in a copy: make mutants SEED=1 LINES=40, or NAMED=1"
	@echo "make check    formatting, lint, strict types"
	@echo "make zoo      rebuild the shipped models: make zoo FACES=folder/of/faces"
	@echo "make bench    measure this machine, beside facenet-pytorch and face_recognition where they are installed"

# The laptop side only: about 400 MB.
install: $(VENV)/.laptop

$(VENV)/.laptop: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

# Adds torch with its CUDA libraries (about 5.6 GB on disk): torchvision and timm run on no smaller build.
$(VENV)/.extras: $(VENV)/.laptop models/pyproject.toml export/pyproject.toml
	$(PIP) install --constraint constraints.txt --editable '.[train,export,mqtt,heic,dev]' --editable ./models --editable ./export
	touch $@

demo: install
	$(BIN)/edge-app demo

test: $(VENV)/.extras
	$(BIN)/python -m pytest -n auto -m 'not slow'

test-all: $(VENV)/.extras
	$(BIN)/python -m pytest -n auto

test-webcam: $(VENV)/.extras
	@test -n '$(WEBCAM_VM)' || { echo "make test-webcam WEBCAM_VM=program that runs a script on a machine with a camera; see tests/webcam/run"; exit 2; }
	tests/webcam/run '$(WEBCAM_VM)' $(BIN)/python $(PART)

fuzz: $(VENV)/.extras
	$(BIN)/python -m tests.fuzz --seed $(or $(SEED),0) --inputs $(or $(INPUTS),50000)

mutants: $(VENV)/.extras
	$(BIN)/python -m tests.mutants $(if $(NAMED),--named,--seed $(or $(SEED),0) --lines $(or $(LINES),40))

check: $(VENV)/.extras
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

zoo: $(VENV)/.extras
	$(BIN)/edge-app export zoo $(if $(FACES),--faces '$(FACES)')

bench: $(VENV)/.extras
	$(BIN)/edge-app bench --peers $(if $(PEER_PYTHON),--peer-python '$(PEER_PYTHON)') --output bench

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

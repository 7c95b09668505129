# make evaluate   set up, then run the whole pipeline (snakemake --cores all evaluate)
# make test       set up, then style checks and all tests
# make setup      .venv (the pipeline), .venv-convert (TensorFlow.js conversion), npm packages (Node runtime)
# make demo       the page in which the model answers, made from data/convert/tfjs and served on this machine
# make preset NAME=insects PHOTOS=folder WEIGHTS=file    put a preset's params.yaml and its data in place

SHELL := bash
PYTHON ?= python3.11
MAIN := .venv/ready-$(shell cat workflow/envs/main.txt workflow/envs/dev.txt pyproject.toml | sha256sum | cut -c1-12)
TESTS_AT_ONCE ?= 2
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: evaluate test check setup demo preset
.DEFAULT_GOAL := evaluate

evaluate: setup
	snakemake --cores all evaluate

test: setup check
	OMP_NUM_THREADS=1 python -m pytest -n $(TESTS_AT_ONCE)

check: $(MAIN)
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check -l 120 Snakefile workflow/rules

setup: $(MAIN)
	snakemake --cores all --quiet all -- convert_env node_env

$(MAIN):
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -r workflow/envs/main.txt -r workflow/envs/dev.txt
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: setup
	node packages/react-bio-clip/demo/make.mjs data/convert/tfjs --serve

preset: $(MAIN)
	python -m bioclip_lite.commands.preset "$$NAME" $${PHOTOS:+"--photos=$$PHOTOS"} $${WEIGHTS:+"--weights=$$WEIGHTS"}

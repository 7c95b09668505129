# make evaluate   set up, then run the whole pipeline (snakemake --cores all evaluate)
# make test       set up, then style checks and all tests
# make setup      .venv (the pipeline), .venv-convert (TensorFlow.js conversion), npm packages (Node runtime)
# make lock       write workflow/envs/*.txt anew from *.in; UPGRADE="timm torch" takes newer versions of these
# make demo       the page in which the model answers, made from data/convert/tfjs and served on this machine
# make docs       the documentation as a site, in site/; links are checked
# make init PHOTOS="my photos"   look at photographs and machine, write params.yaml; also LIST=species.txt HOURS=2
# make preset NAME=photographs PHOTOS=folder WEIGHTS=tower START=file   put a preset's params.yaml and its data in place

SHELL := bash
# Not that of .venv, which is deleted while the other environments are made anew.
PYTHON ?= $(shell PATH="$${PATH//"$(CURDIR)/.venv/bin:"/}" command -v python3.11 || echo python3.11)
NODE := packages/react-bio-clip
# Each mark says which lock file its environment was made from; workflow/rules/environments.smk computes the same ones.
ready = $(1)/ready-$(shell cat $(2) | sha256sum | cut -c1-12)
MAIN := $(call ready,.venv,workflow/envs/main.txt workflow/envs/dev.txt pyproject.toml)
DOCS := $(call ready,.venv-docs,workflow/envs/docs.txt)
CONVERT := $(call ready,.venv-convert,workflow/envs/convert.txt)
NODE_PACKAGES := $(call ready,$(NODE)/node_modules,$(NODE)/package-lock.json)
TESTS_AT_ONCE ?= 2
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: evaluate test pytest check setup environments node lock demo docs init preset
.DEFAULT_GOAL := evaluate

evaluate: setup
	snakemake --cores all evaluate

test: setup
	@$(MAKE) --no-print-directory --jobs=2 check pytest

pytest: $(MAIN)
	OMP_NUM_THREADS=1 python -m pytest -n $(TESTS_AT_ONCE) --no-loadscope-reorder

check: $(MAIN) $(NODE_PACKAGES)
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check -l 120 Snakefile workflow/Snakefile workflow/rules
	snakemake --lint
	npm --prefix $(NODE) run --silent lint

# Side by side: one downloads while another unpacks or compiles.
setup:
	@$(MAKE) --no-print-directory --jobs=3 environments

environments: $(MAIN) $(CONVERT) node

$(MAIN):
	@$(PYTHON) workflow/envs/create.py main
	@touch $@

$(CONVERT):
	@$(PYTHON) workflow/envs/create.py convert
	@touch $@

$(NODE_PACKAGES):
	@$(PYTHON) workflow/envs/create.py node_packages
	@touch $@

node: $(NODE_PACKAGES)
	@cd $(NODE) && node scripts/build.mjs core

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --annotation-style line \
	--custom-compile-command "make lock" $(UPGRADE:%=--upgrade-package %)

lock: $(MAIN)
	cd workflow/envs && $(LOCK) main.in -o main.txt
	cd workflow/envs && $(LOCK) dev.in -c main.txt -o dev.txt
	cd workflow/envs && $(LOCK) convert.in -o convert.txt
	cd workflow/envs && $(LOCK) docs.in -o docs.txt
	cd workflow/envs && $(LOCK) uv.in -o uv.txt

$(DOCS):
	@$(PYTHON) workflow/envs/create.py docs
	@touch $@

docs: $(MAIN) $(DOCS)
	python docs/hooks/command_line.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

demo: setup
	node $(NODE)/demo/make.mjs data/convert/tfjs --serve

init: $(MAIN)
	python -m bioclip_lite init $${LIST:+"--list=$$LIST"} $${HOURS:+"--hours=$$HOURS"} -- "$${PHOTOS:?is missing; name the folder of your photographs}"

preset: $(MAIN)
	python -m bioclip_lite preset "$$NAME" $${PHOTOS:+"--photos=$$PHOTOS"} $${WEIGHTS:+"--weights=$$WEIGHTS"} $${START:+"--weights=$$START"}

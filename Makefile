# make figures/squeeze.pdf                              the embedded study, from nothing
# make figures/squeeze.pdf STUDY=hh-local DATA=path     another study, your own file
# make tables                                           every table of the study; prints the effects
# make test | lint | unlock | clean
SHELL := /bin/bash
STUDY ?= toy
DATA ?=
CORES ?= all
PYTHON ?= python3
# The torch build: cpu or cuda. A login node has no GPU although its jobs do, so the paper's study
# takes cuda wherever it is installed.
TORCH ?= $(if $(filter paper,$(STUDY))$(shell command -v nvidia-smi),cuda,cpu)

BIN := .venv/bin
TORCH_PIN := $(shell sed -n 's/^ *"\(torch==[0-9.]*\)",/\1/p' pyproject.toml)
CONFIG := $(if $(filter-out toy,$(STUDY)),--configfile studies/$(STUDY).yaml) \
          $(if $(DATA),--config data=$(DATA))
FILES := config.yaml $(if $(filter-out toy,$(STUDY)),studies/$(STUDY).yaml)
SNAKEMAKE = export PATH="$(CURDIR)/$(BIN):$$PATH"; set -e; \
            python -m learning_dynamics.study $(FILES); \
            snakemake $(1) $(CONFIG) --cores $(CORES) --rerun-incomplete --show-failed-logs \
            --quiet rules host
TIMED = TIMEFORMAT='wall %R s; CPU %U s user + %S s system'; time

.PHONY: all tables test lint unlock clean FORCE

all: $(BIN)/.installed
	@$(TIMED) { $(call SNAKEMAKE,all); }

figures/%.pdf: $(BIN)/.installed FORCE
	@$(TIMED) { $(call SNAKEMAKE,$@ figures/$*.png); }

figures/%.png tables/%.csv: $(BIN)/.installed FORCE
	@$(TIMED) { $(call SNAKEMAKE,$@); }

tables: $(BIN)/.installed
	@$(call SNAKEMAKE,tables/changes.csv tables/effects.csv tables/dose.csv)
	@cat results/$(STUDY)/tables/effects.md

test: $(BIN)/.installed
	$(BIN)/python -m pytest

lint: $(BIN)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	export PATH="$(CURDIR)/$(BIN):$$PATH"; snakemake --lint

unlock: $(BIN)/.installed
	$(BIN)/snakemake --unlock $(CONFIG)

clean:
	rm -rf .snakemake results/[!.]* figures/[!.]* tables/[!.]*

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing torch, $(TORCH) build (TORCH=cpu or TORCH=cuda chooses)"
ifeq ($(TORCH),cpu)
	$(BIN)/pip install -q "$(TORCH_PIN)+cpu" 2>/dev/null \
	|| $(BIN)/pip install -q "$(TORCH_PIN)+cpu" --extra-index-url https://download.pytorch.org/whl/cpu \
	|| $(BIN)/pip install -q "$(TORCH_PIN)"
else
	$(BIN)/pip install -q "$(TORCH_PIN)"
endif
	$(BIN)/pip install -q -e ".[test]"
	touch $@

# make figures/squeeze.pdf                              the embedded study, from nothing
# make figures/squeeze.pdf STUDY=hh-local DATA=path     another study, your own file
# make tables/published.csv PUBLISHED=folder            published runs, imported
# make figures/claims.pdf STUDY=own PUBLISHED=folder    trajectories of your own training
# make tables                                           tables of the study; prints claims, data card
# make confounds                                        figures/confounds.pdf; prints what is behind it
# make algorithms                                       figures/algorithms.pdf, forget.pdf; the same
# make figures                                          every figure and table of the study
# make report                                           report.zip: all of them with captions
# make card DATA=path                                   the data card of any probing file
# make plan [TARGET=figures/squeeze.pdf]               what it will cost, what is done already
# make preflight                                        is this place fit for the study?
# make reliability                                      kills 50 times, and writes docs/reliability.md
# make slurm-faults [FAULTS="scancel memory"]           strikes jobs of a real SLURM; writes it, too
# make fuzz                                             2,000 cases of hostile input; writes it, too
# make test | lint | clean
SHELL := /bin/bash
STUDY ?= toy
DATA ?=
PUBLISHED ?=
TARGET ?=
FAULTS ?=
CORES ?= all
PYTHON ?= python3
# The torch build: cpu or cuda. A login node has no GPU although its jobs do, so the paper's study
# takes cuda wherever it is installed.
TORCH ?= $(if $(filter paper,$(STUDY))$(shell command -v nvidia-smi),cuda,cpu)

# What people type is taken as it stands: make expands nothing in it, and the shell reads it from its
# environment.
$(foreach name,STUDY DATA PUBLISHED TARGET FAULTS CORES,$(eval override $(name) := $$(value $(name))))
export STUDY DATA PUBLISHED TARGET FAULTS CORES
%: export GOAL = $@

BIN := .venv/bin
TORCH_PIN := $(shell sed -n 's/^ *"\(torch==[0-9.]*\)",/\1/p' pyproject.toml)
CONFIG := $(if $(filter-out toy,$(STUDY)),--configfile "studies/$$STUDY.yaml") \
          $(if $(DATA)$(PUBLISHED),--config $(if $(DATA),data="$$DATA") \
          $(if $(PUBLISHED),published="$$PUBLISHED"))
TABLES := changes claims dose probe findings
CONFOUNDS := confounds influence fingerprint
FILES := config.yaml $(if $(filter-out toy,$(STUDY)),"studies/$$STUDY.yaml")
SNAKEMAKE = export PATH="$(CURDIR)/$(BIN):$$PATH"; set -e; \
            python -m learning_dynamics.study $(FILES); \
            python -m learning_dynamics.warm snakemake $(1) $(CONFIG) --cores "$$CORES" --scheduler greedy --rerun-incomplete --show-failed-logs \
            --quiet rules host
TIMED = TIMEFORMAT='wall %R s; CPU %U s user + %S s system'; time

.PHONY: figures report algorithms card confounds tables plan preflight test reliability slurm-faults fuzz lint clean FORCE

figures: $(BIN)/.installed
	@$(TIMED) { $(call SNAKEMAKE,all); }

report: figures
	@$(call SNAKEMAKE,--report report.zip)

figures/%.pdf: $(BIN)/.installed FORCE
	@$(TIMED) { $(call SNAKEMAKE,"$$GOAL" "$${GOAL%.pdf}.png"); }

figures/%.png tables/%.csv: $(BIN)/.installed FORCE
	@$(TIMED) { $(call SNAKEMAKE,"$$GOAL"); }

# The data card of any file of rows with typed responses, without a study.
CARD = --file="$$DATA"
card: $(BIN)/.installed
	@PYTHONPATH=. $(BIN)/python workflow_scripts/make_card.py $(CARD) --table tables/card.csv \
	--findings tables/card-findings.csv --markdown tables/card.md --log tables/card.log
	@PYTHONPATH=. $(BIN)/python workflow_scripts/draw_probe.py $(CARD) --log tables/card.log \
	--out figures/card.pdf figures/card.png
	@cat tables/card.md

tables: $(BIN)/.installed
	@$(call SNAKEMAKE,$(TABLES:%=tables/%.csv))
	@cat "results/$$STUDY/claims.md" "results/$$STUDY/tables/probe.md"

confounds: $(BIN)/.installed
	@$(TIMED) { $(call SNAKEMAKE,figures/confounds.pdf figures/confounds.png $(CONFOUNDS:%=tables/%.csv)); }
	@cat results/"$$STUDY"/tables/confounds.md

algorithms: $(BIN)/.installed
	@$(TIMED) { $(call SNAKEMAKE,$(foreach f,algorithms residuals forget,figures/$(f).pdf figures/$(f).png) \
	tables/verdicts.csv tables/forgetting.csv); }
	@cat results/"$$STUDY"/tables/{algorithms,forget}.md

plan: $(BIN)/.installed
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; python -m learning_dynamics.plan $(if $(TARGET),"$$TARGET") $(CONFIG)

preflight: $(BIN)/.installed
	@$(call SNAKEMAKE,preflight)

test: $(BIN)/.installed
	$(BIN)/python -m pytest

reliability: $(BIN)/.installed
	$(BIN)/python -m tests.reliability.kills --kills 50 --write docs/reliability.md

slurm-faults: $(BIN)/.installed
	@$(BIN)/python -m tests.slurm.faults "$$FAULTS" --write docs/reliability.md

fuzz: $(BIN)/.installed
	@$(BIN)/python -m tests.reliability.fuzz --cases 2000 --write docs/reliability.md

lint: $(BIN)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	export PATH="$(CURDIR)/$(BIN):$$PATH"; snakemake --lint

clean:
	rm -rf .snakemake results/[!.]* figures/[!.]* tables/[!.]* report.zip

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

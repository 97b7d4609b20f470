"""Every figure and table of "Learning Dynamics of LLM Finetuning" as a target file."""

from snakemake.utils import min_version

min_version("9.20")


configfile: workflow.source_path("config.yaml")


include: "rules/common.smk"
include: "rules/contents.smk"
include: "rules/resources.smk"
include: "rules/preflight.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/runs.smk"
include: "rules/theory.smk"
include: "rules/dynamics.smk"
include: "rules/figures.smk"
include: "rules/algorithms.smk"
include: "rules/digits.smk"
include: "rules/proxies.smk"
include: "rules/kernel.smk"
include: "rules/influence.smk"
include: "rules/curves.smk"
include: "rules/positions.smk"
include: "rules/winrate.smk"
include: "rules/claims.smk"


rule all:
    default_target: True
    input:
        everything(),

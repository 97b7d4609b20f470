"""Tables: what the trajectories say, with intervals.

Requires trajectories. Makes tables/<name>.csv.
"""


rule measure_one_step:
    """Single DPO, coin-flip and SFT steps from an SFT model: where mass goes at y⁻ positions."""
    input:
        model=f"{RUN}/model",
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
    output:
        f"{RUN}/one-step.parquet",
    log:
        f"{RESULTS}/logs/measure_one_step/{{dataset}}/{{model}}/{{run}}/seed{{seed}}.log",
    conda:
        "../envs/learning-dynamics.yaml"
    threads: STUDY.config["compute"]["threads"]
    resources:
        gpu=GPUS,
        mem_mb=memory_mb,
    params:
        script=script("measure_one_step"),
        code=code("measure_one_step"),
        model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        compute=COMPUTE,
        one_step=STUDY.config["figures"]["squeeze"]["one_step"],
    shell:
        "{params.script} --model {input.model:q} --model-spec {params.model_spec:q}"
        " --compute {params.compute:q} --pairs {input.pairs:q} --seed {wildcards.seed}"
        " --batches {params.one_step[batches]} --batch-size {params.one_step[batch_size]}"
        " --out {output:q} --log {log:q}"


rule make_changes:
    """Every response type × run × seed: change from start and from own best, with intervals."""
    input:
        trajectories=trajectories("squeeze"),
    output:
        f"{RESULTS}/tables/changes.csv",
    log:
        f"{RESULTS}/logs/make_changes.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_changes"),
        code=code("make_changes"),
        study=figure_study("squeeze"),
        root=lambda wildcards: RESULTS,
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
        " --log {log:q}"


rule make_effects:
    """The effects of docs/statistics.md, beside their controls, each with a verdict."""
    input:
        trajectories=trajectories("squeeze"),
        one_step=one_steps(),
    output:
        table=f"{RESULTS}/tables/effects.csv",
        markdown=f"{RESULTS}/tables/effects.md",
    log:
        f"{RESULTS}/logs/make_effects.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_effects"),
        code=code("make_effects"),
        study=figure_study("squeeze"),
        root=lambda wildcards: RESULTS,
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q}"
        " --out {output.table:q} --markdown {output.markdown:q} --log {log:q}"


if "dose" in FIGURE_NAMES:

    use rule make_changes as make_dose with:
        input:
            trajectories=trajectories("dose"),
        output:
            f"{RESULTS}/tables/dose.csv",
        log:
            f"{RESULTS}/logs/make_dose.log",
        params:
            script=script("make_dose"),
            code=code("make_dose"),
            study=figure_study("dose"),
            root=lambda wildcards: RESULTS,


rule publish_table:
    """The configured study's table under the name that people type."""
    input:
        f"{RESULTS}/tables/{{table}}.csv",
    output:
        "tables/{table}.csv",
    log:
        f"{RESULTS}/logs/publish_table/{{table}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    shell:
        "cp {input:q} {output:q} 2> {log:q}"

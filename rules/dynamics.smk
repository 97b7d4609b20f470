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
        **asks("measure_one_step"),
    params:
        script=script("measure_one_step"),
        code=code("measure_one_step"),
        model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        compute=COMPUTE,
        texts=texts_of,
        one_step=STUDY.config["figures"]["squeeze"]["one_step"],
    shell:
        "{params.script} --model {input.model:q} --model-spec {params.model_spec:q}"
        " --compute {params.compute:q} --texts {params.texts:q}"
        " --pairs {input.pairs:q} --seed {wildcards.seed}"
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


rule make_card:
    """The data card of a probe set: what each response type is like, and what is wrong with it."""
    input:
        probes=card_probes(),
        pairs=f"{RESULTS}/data/{CARD['dataset']}/pairs.parquet",
        model=f"{home(CARD['model'], STUDY.seeds[0])}/model",
    output:
        table=f"{RESULTS}/tables/probe.csv",
        findings=f"{RESULTS}/tables/findings.csv",
        markdown=f"{RESULTS}/tables/probe.md",
    log:
        f"{RESULTS}/logs/make_card.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_card"),
        code=code("make_card"),
        study=figure_study("probe"),
    shell:
        "{params.script} --probes {input.probes:q} --pairs {input.pairs:q} --model {input.model:q}"
        " --study {params.study:q} --table {output.table:q} --findings {output.findings:q}"
        " --markdown {output.markdown:q} --log {log:q}"


rule make_confounds:
    """What each fault of the published probing set changes, and the machine fingerprint."""
    input:
        trajectories=confound_trajectories(),
    output:
        switches=f"{RESULTS}/tables/confounds.csv",
        influence=f"{RESULTS}/tables/influence.csv",
        fingerprint=f"{RESULTS}/tables/fingerprint.csv",
        course=f"{RESULTS}/tables/fingerprint-course.csv",
        markdown=f"{RESULTS}/tables/confounds.md",
    log:
        f"{RESULTS}/logs/make_confounds.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_confounds"),
        code=code("make_confounds"),
        study=figure_study("confounds"),
        root=lambda wildcards: RESULTS,
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q}"
        " --switches {output.switches:q} --influence {output.influence:q}"
        " --fingerprint {output.fingerprint:q} --course {output.course:q}"
        " --markdown {output.markdown:q} --log {log:q}"


rule import_published:
    """A result folder of the reference implementation, or of anyone's training, as a trajectory."""
    input:
        folder=lambda wildcards: PUBLISHED[wildcards.name],
    output:
        f"{RESULTS}/published/{{name}}.parquet",
    log:
        f"{RESULTS}/logs/import_published/{{name}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("import_published"),
        code=code("import_published"),
    shell:
        "{params.script} --folder {input.folder:q} --out {output:q} --log {log:q}"


rule make_published:
    """First, best and last value of every column of the published runs."""
    input:
        expand(f"{RESULTS}/published/{{name}}.parquet", name=PUBLISHED),
    output:
        f"{RESULTS}/tables/published.csv",
    log:
        f"{RESULTS}/logs/make_published.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_published"),
        code=code("make_published"),
        runs=lambda wildcards, input: [
            f"{name}={path}" for name, path in zip(PUBLISHED, input)
        ],
    shell:
        "{params.script} --runs {params.runs:q} --out {output:q} --log {log:q}"


rule publish_table:
    """The configured study's table under the name that people type."""
    input:
        f"{RESULTS}/tables/{{table}}.csv",
    output:
        report(
            "tables/{table}.csv",
            caption="../report/caption.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{RESULTS}/logs/publish_table/{{table}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        caption=lambda wildcards: CAPTIONS["tables"][wildcards.table],
    shell:
        "cp {input:q} {output:q} 2> {log:q}"

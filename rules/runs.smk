"""The runs: reference log-probs, and the finetuning rule, written once and instantiated per
algorithm (finetune_sft, finetune_dpo, and finetune_my_loss for a user's file.py:my_loss).

Requires pairs, probe sets and base models. Makes runs/<dataset>/<model>/<run>/seed<k>/.
"""


rule score_reference:
    """Log-probs of the training pairs under a model that preference runs start from."""
    input:
        model=model_at,
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
    output:
        f"{RUN}/reference{{at}}.parquet",
    log:
        f"{RESULTS}/logs/score_reference/{{dataset}}/{{model}}/{{run}}{{at}}/seed{{seed}}.log",
    wildcard_constraints:
        at=r"(-epoch[0-9.]+)?",
    conda:
        "../envs/learning-dynamics.yaml"
    threads: STUDY.config["compute"]["threads"]
    resources:
        **asks("score_reference"),
    params:
        script=script("score_reference"),
        code=code("score_reference"),
        model=lambda wildcards, input: model_within(
            input.model, wildcards.at.removeprefix("-epoch")
        ),
        model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        compute=COMPUTE,
        texts=texts_of,
    shell:
        "{params.script} --model {params.model:q} --model-spec {params.model_spec:q}"
        " --compute {params.compute:q} --texts {params.texts:q}"
        " --pairs {input.pairs:q} --out {output:q} --log {log:q}"


use rule score_reference as score_reference_of_base with:
    input:
        model=f"{HOME}/model",
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
    output:
        f"{HOME}/reference-{{dataset}}.parquet",
    log:
        f"{RESULTS}/logs/score_reference/{{home}}/{{dataset}}.log",
    params:
        script=script("score_reference"),
        code=code("score_reference"),
        model=lambda wildcards, input: input.model,
        model_spec=lambda wildcards: json.dumps(
            STUDY.models[STUDY.model_of_home(wildcards.home)[0]]
        ),
        compute=COMPUTE,
        texts=texts_of,


# What an instance's name says of the files that its runs leave besides.
EXTRA = {"proxies": "_measured", "tokens": "_by_token", "influence": "_along"}


for algorithm, short in STUDY.algorithms.items():
    # Runs that leave more files behind are separate instances, for a rule's outputs are fixed.
    for extra, names in STUDY.instances(algorithm):

        rule:
            name:
                f"finetune_{short}" + "".join(EXTRA[file] for file in extra)
            input:
                init=init_model,
                reference=reference_of,
                loss=loss_file,
                judge=judge_file,
                pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
                probes=lambda wildcards: probe_tables(
                    wildcards.dataset, wildcards.model, wildcards.seed
                ),
            output:
                trajectory=f"{RUN}/trajectory.parquet",
                training=f"{RUN}/training.parquet",
                facts=f"{RUN}/run.json",
                model=directory(f"{RUN}/model"),
                # Its models at epochs where others start, or where answers are written.
                kept=directory(f"{RUN}/checkpoints"),
                extra=[f"{RUN}/{file}.parquet" for file in extra],
            log:
                f"{RESULTS}/logs/finetune/{{dataset}}/{{model}}/{{run}}/seed{{seed}}.log",
            wildcard_constraints:
                run=either(names),
            conda:
                "../envs/learning-dynamics.yaml"
            threads: STUDY.config["compute"]["threads"] * PROCESSES
            resources:
                **asks("finetune"),
            params:
                script=script("finetune", PROCESSES),
                code=code("finetune"),
                loss=loss_digest,
                spec=lambda wildcards: json.dumps(STUDY.runs[wildcards.run]),
                model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
                compute=COMPUTE,
                texts=texts_of,
                writing=writing,
                reference=lambda wildcards, input: (
                    ["--reference", input.reference] if input.reference else []
                ),
                init=lambda wildcards, input: model_within(
                    input.init, STUDY.parent(wildcards.run)[1]
                ),
                keep=lambda wildcards: [
                    f"--keep-epochs={epoch}"
                    for epoch in STUDY.checkpoints(wildcards.run)
                ],
                folder=subpath(output.trajectory, parent=True),
            shell:
                "{params.script} --spec {params.spec:q} --model-spec {params.model_spec:q}"
                " --compute {params.compute:q} --texts {params.texts:q}"
                " --seed {wildcards.seed} --init {params.init:q}"
                " --pairs {input.pairs:q} --probes {input.probes:q} {params.reference:q}"
                " --writing {params.writing:q}"
                " {params.keep:q} --out {params.folder:q} --log {log:q}"

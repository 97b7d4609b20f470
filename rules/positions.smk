"""Token by token: where the mass of single updates lands, and log-probs along runs by position.

Requires SFT models, and runs with `tokens`. Makes mass.parquet in the runs' folders, tables/mass.csv
and figures/{mass,tokens}.pdf and .png.
"""

if "mass" in FIGURE_NAMES:
    MASS = STUDY.config["figures"]["mass"]

    rule measure_mass:
        """The same single steps as figures/squeeze's: every token's share of what y⁻ loses."""
        input:
            model=f"{RUN}/model",
            pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        output:
            f"{RUN}/mass.parquet",
        log:
            f"{RESULTS}/logs/measure_mass/{{dataset}}/{{model}}/{{run}}/seed{{seed}}.log",
        conda:
            "../envs/learning-dynamics.yaml"
        threads: STUDY.config["compute"]["threads"]
        resources:
            **asks("measure_mass"),
        params:
            script=script("measure_mass"),
            code=code("measure_mass"),
            model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
            compute=COMPUTE,
            texts=texts_of,
            one_step=MASS["one_step"],
        shell:
            "{params.script} --model {input.model:q} --model-spec {params.model_spec:q}"
            " --compute {params.compute:q} --texts {params.texts:q}"
            " --pairs {input.pairs:q} --seed {wildcards.seed}"
            " --batches {params.one_step[batches]} --batch-size {params.one_step[batch_size]}"
            " --out {output:q} --log {log:q}"

    rule make_mass:
        """Shares by depth, position and alignment; what Lemma 1 explains; intervals over seeds."""
        input:
            [
                f"{run_folder(MASS['dataset'], MASS['model'], MASS['runs']['sft'], seed)}/mass.parquet"
                for seed in STUDY.seeds_of("mass")
            ],
        output:
            f"{RESULTS}/tables/mass.csv",
        log:
            f"{RESULTS}/logs/make_mass.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_mass"),
            code=code("make_mass"),
            study=figure_study("mass"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"

    rule draw_mass:
        """Where the mass lands, and what the softmax alone explains."""
        input:
            table=f"{RESULTS}/tables/mass.csv",
        output:
            multiext(f"{RESULTS}/figures/mass", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_mass.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_mass"),
            code=code("draw_mass"),
            study=figure_study("mass"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q} --out {output:q}"
            " --log {log:q}"


if "tokens" in FIGURE_NAMES:

    rule draw_tokens:
        """Change of log-prob by position and by class of token, and an example as coloured text."""
        input:
            run_files("tokens", "tokens.parquet"),
        output:
            multiext(f"{RESULTS}/figures/tokens", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_tokens.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_tokens"),
            code=code("draw_tokens"),
            study=figure_study("tokens"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"

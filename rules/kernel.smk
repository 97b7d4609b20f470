"""The mutual kernel of response types: what one step on each does to every other, at saved models
along training; whether it keeps still; and the paper's proxies of it.

Requires base models, runs with the epochs that are asked for, and probe sets. Makes
mutual[-epoch<e>].parquet in the runs' folders (a base model's: mutual-<dataset>.parquet),
tables/{kernel,kernel_stability,kernel_proxies}.csv and figures/kernel.pdf and .png.
"""

if "kernel" in FIGURE_NAMES:
    MUTUAL = STUDY.config["figures"]["kernel"]

    rule measure_mutual:
        """Mutual influence of the first probed training prompts' responses, for a saved model."""
        input:
            model=model_at,
            probes=lambda wildcards: probe_tables(
                wildcards.dataset, wildcards.model, wildcards.seed
            ),
        output:
            f"{RUN}/mutual{{at}}.parquet",
        log:
            f"{RESULTS}/logs/measure_mutual/{{dataset}}/{{model}}/{{run}}{{at}}/seed{{seed}}.log",
        wildcard_constraints:
            at=r"(-epoch[0-9.]+)?",
        conda:
            "../envs/learning-dynamics.yaml"
        threads: STUDY.config["compute"]["threads"]
        resources:
            **asks("measure_mutual"),
        params:
            script=script("measure_mutual"),
            code=code("measure_mutual"),
            model=lambda wildcards, input: model_within(
                input.model, wildcards.at.removeprefix("-epoch")
            ),
            model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
            compute=COMPUTE,
            texts=texts_of,
            examples=MUTUAL["examples"],
            gradients_mb=MUTUAL["gradients_mb"],
        shell:
            "{params.script} --model {params.model:q} --model-spec {params.model_spec:q}"
            " --compute {params.compute:q} --texts {params.texts:q} --probes {input.probes:q}"
            " --examples {params.examples} --gradients-mb {params.gradients_mb}"
            " --out {output:q} --log {log:q}"

    use rule measure_mutual as measure_mutual_of_base with:
        input:
            model=f"{HOME}/model",
            probes=lambda wildcards: probe_tables(
                wildcards.dataset, *STUDY.model_of_home(wildcards.home)
            ),
        output:
            f"{HOME}/mutual-{{dataset}}.parquet",
        log:
            f"{RESULTS}/logs/measure_mutual/{{home}}/{{dataset}}.log",
        params:
            script=script("measure_mutual"),
            code=code("measure_mutual"),
            model=lambda wildcards, input: input.model,
            model_spec=lambda wildcards: json.dumps(
                STUDY.models[STUDY.model_of_home(wildcards.home)[0]]
            ),
            compute=COMPUTE,
            texts=texts_of,
            examples=MUTUAL["examples"],
            gradients_mb=MUTUAL["gradients_mb"],

    rule make_kernel:
        """The kernel by response type, its stability, and how the proxies rank with it."""
        input:
            [entry["path"] for entry in mutual_files()],
        output:
            kernel=f"{RESULTS}/tables/kernel.csv",
            stability=f"{RESULTS}/tables/kernel_stability.csv",
            proxies=f"{RESULTS}/tables/kernel_proxies.csv",
        log:
            f"{RESULTS}/logs/make_kernel.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_kernel"),
            code=code("make_kernel"),
            files=json.dumps(mutual_files()),
        shell:
            "{params.script} --files {params.files:q} --kernel {output.kernel:q}"
            " --stability {output.stability:q} --proxies {output.proxies:q} --log {log:q}"

    rule draw_kernel:
        """Is the kernel frozen, and do the proxies see it?"""
        input:
            kernel=f"{RESULTS}/tables/kernel.csv",
            stability=f"{RESULTS}/tables/kernel_stability.csv",
            proxies=f"{RESULTS}/tables/kernel_proxies.csv",
            agreement=f"{RESULTS}/tables/kernel_agreement.csv" if STUDY.kernel() else [],
        output:
            multiext(f"{RESULTS}/figures/kernel", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_kernel.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_kernel"),
            code=code("draw_kernel"),
            study=json.dumps(
                {**json.loads(figure_study("kernel")), "tiny": STUDY.kernel()}
            ),
            agreement=lambda wildcards, input: (
                ["--agreement", input.agreement] if input.agreement else []
            ),
        shell:
            "{params.script} --study {params.study:q} --kernel {input.kernel:q}"
            " --stability {input.stability:q} --proxies {input.proxies:q}"
            " {params.agreement:q} --out {output:q} --log {log:q}"

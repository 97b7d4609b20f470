"""The eNTK proxies: what one update does to every response type, how that agrees with the true
kernel, the model's confidence, and the response types placed by their mutual influence.

Requires trajectories and proxies.parquet of the runs on the probes' own responses, and the base
models. Makes tables/{entk_proxies,entk_accumulated,heatmap,kernel_agreement,response_space}.csv and
figures/{entk_proxies,confidence,response_space}.pdf and .png.
"""

PUBLISHED_FILES = [f"{RESULTS}/published/{name}.parquet" for name in PUBLISHED]
PUBLISHED_PAIRS = [f"{name}={path}" for name, path in zip(PUBLISHED, PUBLISHED_FILES)]


if "entk_proxies" in FIGURE_NAMES:

    rule make_proxies:
        """Both definitions of both proxies along the runs, accumulated, and the heat map."""
        input:
            trajectories=update_files("entk_proxies", "trajectory.parquet"),
            measured=update_files("entk_proxies", "proxies.parquet"),
            models=base_models("entk_proxies"),
            published=PUBLISHED_FILES,
        output:
            curves=f"{RESULTS}/tables/entk_proxies.csv",
            accumulated=f"{RESULTS}/tables/entk_accumulated.csv",
            heatmap=f"{RESULTS}/tables/heatmap.csv",
        log:
            f"{RESULTS}/logs/make_proxies.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_proxies"),
            code=code("make_proxies"),
            study=proxy_study("entk_proxies"),
            root=lambda wildcards: RESULTS,
            published=PUBLISHED_PAIRS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --published {params.published:q} --curves {output.curves:q}"
            " --accumulated {output.accumulated:q} --heatmap {output.heatmap:q} --log {log:q}"

    rule draw_entk_proxies:
        """LBK and SignDelta, as defined and as published, and their agreement with the kernel."""
        input:
            curves=f"{RESULTS}/tables/entk_proxies.csv",
            accumulated=f"{RESULTS}/tables/entk_accumulated.csv",
            agreement=f"{RESULTS}/tables/kernel_agreement.csv" if STUDY.kernel() else [],
        output:
            multiext(f"{RESULTS}/figures/entk_proxies", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_entk_proxies.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_entk_proxies"),
            code=code("draw_entk_proxies"),
            study=proxy_study("entk_proxies"),
            agreement=lambda wildcards, input: (
                ["--agreement", input.agreement] if input.agreement else []
            ),
        shell:
            "{params.script} --study {params.study:q} --curves {input.curves:q}"
            " --accumulated {input.accumulated:q} {params.agreement:q} --out {output:q}"
            " --log {log:q}"


if STUDY.kernel():
    KERNEL_MODEL = STUDY.kernel()["model"]
    KERNEL_DATA = STUDY.config["figures"]["entk_proxies"]["dataset"]

    rule measure_kernel:
        """The exact kernel of a tiny base model, and one plain gradient step."""
        input:
            model=f"{HOME}/model",
            probes=lambda wildcards: probe_tables(
                wildcards.dataset, *STUDY.model_of_home(wildcards.home)
            ),
        output:
            f"{HOME}/kernel-{{dataset}}.parquet",
        log:
            f"{RESULTS}/logs/measure_kernel/{{home}}/{{dataset}}.log",
        conda:
            "../envs/learning-dynamics.yaml"
        threads: STUDY.config["compute"]["threads"]
        resources:
            **asks("measure_kernel"),
        params:
            script=script("measure_kernel"),
            code=code("measure_kernel"),
            model_spec=lambda wildcards: json.dumps(
                STUDY.models[STUDY.model_of_home(wildcards.home)[0]]
            ),
            compute=COMPUTE,
            texts=texts_of,
            kernel=json.dumps(STUDY.kernel()),
            updates=json.dumps(list(STUDY.updates("entk_proxies"))),
        shell:
            "{params.script} --model {input.model:q} --model-spec {params.model_spec:q}"
            " --compute {params.compute:q} --texts {params.texts:q} --probes {input.probes:q}"
            " --kernel {params.kernel:q} --updates {params.updates:q} --out {output:q}"
            " --log {log:q}"

    rule make_agreement:
        """Rank correlation of every proxy with the exact kernel."""
        input:
            kernels=[
                f"{home(KERNEL_MODEL, seed)}/kernel-{KERNEL_DATA}.parquet"
                for seed in STUDY.seeds
            ],
            trajectories=update_files(
                "entk_proxies", "trajectory.parquet", KERNEL_MODEL
            ),
            measured=update_files("entk_proxies", "proxies.parquet", KERNEL_MODEL),
            models=base_models("entk_proxies", KERNEL_MODEL),
        output:
            f"{RESULTS}/tables/kernel_agreement.csv",
        log:
            f"{RESULTS}/logs/make_agreement.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_agreement"),
            code=code("make_agreement"),
            study=proxy_study("entk_proxies", KERNEL_MODEL),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"


if "confidence" in FIGURE_NAMES:

    rule draw_confidence:
        """Peakiness, the greedy token and all the rest, during SFT and DPO."""
        input:
            trajectories=trajectories("confidence"),
            models=base_models("confidence"),
            published=PUBLISHED_FILES,
        output:
            multiext(f"{RESULTS}/figures/confidence", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_confidence.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_confidence"),
            code=code("draw_confidence"),
            study=proxy_study("confidence"),
            root=lambda wildcards: RESULTS,
            published=PUBLISHED_PAIRS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --published {params.published:q} --out {output:q} --log {log:q}"


if "response_space" in FIGURE_NAMES:

    rule make_response_space:
        """The response types placed by their measured mutual influence."""
        input:
            trajectories=update_files("response_space", "trajectory.parquet"),
        output:
            f"{RESULTS}/tables/response_space.csv",
        log:
            f"{RESULTS}/logs/make_response_space.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_response_space"),
            code=code("make_response_space"),
            study=proxy_study("response_space"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"

    rule draw_response_space:
        """The paper's map of the response space, drawn from data."""
        input:
            table=f"{RESULTS}/tables/response_space.csv",
        output:
            multiext(f"{RESULTS}/figures/response_space", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_response_space.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_response_space"),
            code=code("draw_response_space"),
            study=proxy_study("response_space"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q} --out {output:q}"
            " --log {log:q}"

"""Claims: sentences of the paper, each decided by a number, for every data set × model.

Requires trajectories and probe sets; takes single steps, win rates and imported published runs where
the study has them. Makes claims.parquet, claims.md, tables/claims.csv and figures/claims.pdf, .png.
"""


rule make_claims:
    """Every claim of docs/statistics.md, with effect, interval, dose and verdict."""
    input:
        trajectories=[
            f"{run_folder(entry['dataset'], entry['model'], run, seed)}/trajectory.parquet"
            for entry in STUDY.config["claims"]["evaluate"]
            for run in dict.fromkeys(claim_roles(entry).values())
            for seed in STUDY.seeds
        ],
        followed=[
            f"{run_folder(column['dataset'], column['model'], run, seed)}/influence.parquet"
            for column in claim_columns()
            for run in column["followed"].values()
            for seed in STUDY.seeds
        ],
        probes=[
            f"{RESULTS}/data/{dataset}/probe.parquet"
            for dataset in dict.fromkeys(
                entry["dataset"] for entry in STUDY.config["claims"]["evaluate"]
            )
        ],
        one_step=(
            one_steps() if any(one["one_step"] for one in claim_columns()) else []
        ),
        published=expand(f"{RESULTS}/published/{{name}}.parquet", name=PUBLISHED),
        winrate=(
            f"{RESULTS}/tables/winrate.csv"
            if "winrate" in FIGURE_NAMES and claim_columns()
            else []
        ),
    output:
        claims=f"{RESULTS}/claims.parquet",
        markdown=f"{RESULTS}/claims.md",
        parts=f"{RESULTS}/tables/claims.csv",
    log:
        f"{RESULTS}/logs/make_claims.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_claims"),
        code=code("make_claims"),
        study=json.dumps(
            {"study": STUDY.name, "seeds": STUDY.seeds, "columns": claim_columns()}
        ),
        root=lambda wildcards: RESULTS,
        published=lambda wildcards, input: [
            f"{name}={path}" for name, path in zip(PUBLISHED, input.published)
        ],
        facts=lambda wildcards: json.dumps(PUBLISHED_FACTS),
        winrate=lambda wildcards, input: (
            ["--winrate", input.winrate] if input.winrate else []
        ),
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q}"
        " --published {params.published:q} --facts {params.facts:q} {params.winrate:q}"
        " --out {output.claims:q} --parts {output.parts:q} --markdown {output.markdown:q}"
        " --log {log:q}"


rule draw_claims:
    """Claims × data sets and models: which hold, in one picture."""
    input:
        f"{RESULTS}/claims.parquet",
    output:
        multiext(f"{RESULTS}/figures/claims", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/draw_claims.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("draw_claims"),
        code=code("draw_claims"),
        study=json.dumps({"study": STUDY.name, "seeds": STUDY.seeds}),
    shell:
        "{params.script} --study {params.study:q} --claims {input:q} --out {output:q}"
        " --log {log:q}"

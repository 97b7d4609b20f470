"""Losses compared: the update that each imposes, who squeezes at equal margin, forgetting, forks.

Requires trajectories. Makes tables/{residuals,coefficients,algorithms,verdicts,forget,forgetting,
forks,fork_parts}.csv and figures/{residuals,algorithms,forget,forks}.pdf and .png.
"""

# The losses that figures/algorithms compares; without that figure, the script's own list.
COMPARED = STUDY.config["figures"].get("algorithms", {}).get("compare", [])
COMPARED = ["sft", *COMPARED] if COMPARED else []


rule make_residuals:
    """One gradient step of every loss on one softmax, and its coefficients by margin."""
    input:
        losses=[name.rpartition(":")[0] for name in COMPARED if ":" in name],
    output:
        steps=f"{RESULTS}/tables/residuals.csv",
        coefficients=f"{RESULTS}/tables/coefficients.csv",
    log:
        f"{RESULTS}/logs/make_residuals.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("make_residuals"),
        code=code("make_residuals"),
        algorithms=COMPARED,
    shell:
        "{params.script} --algorithms {params.algorithms:q} --steps {output.steps:q}"
        " --coefficients {output.coefficients:q} --log {log:q}"


rule draw_residuals:
    """The update that each loss imposes on one softmax: the paper's Figure 2, computed."""
    input:
        steps=f"{RESULTS}/tables/residuals.csv",
        coefficients=f"{RESULTS}/tables/coefficients.csv",
    output:
        multiext(f"{RESULTS}/figures/residuals", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/draw_residuals.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("draw_residuals"),
        code=code("draw_residuals"),
    shell:
        "{params.script} --steps {input.steps:q} --coefficients {input.coefficients:q}"
        " --out {output:q} --log {log:q}"


if "algorithms" in FIGURE_NAMES:

    rule make_algorithms:
        """Every run of the grid along its margin, and which loss squeezes at equal margin."""
        input:
            trajectories=expand(
                f"{RUN}/trajectory.parquet",
                dataset=STUDY.config["figures"]["algorithms"]["dataset"],
                model=STUDY.config["figures"]["algorithms"]["model"],
                run=[entry["run"] for entry in STUDY.grid()],
                seed=STUDY.seeds_of("algorithms"),
            ),
        output:
            table=f"{RESULTS}/tables/algorithms.csv",
            verdicts=f"{RESULTS}/tables/verdicts.csv",
            markdown=f"{RESULTS}/tables/algorithms.md",
        log:
            f"{RESULTS}/logs/make_algorithms.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_algorithms"),
            code=code("make_algorithms"),
            study=json.dumps(
                {**json.loads(figure_study("algorithms")), "runs": STUDY.grid()}
            ),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --out {output.table:q} --verdicts {output.verdicts:q}"
            " --markdown {output.markdown:q} --log {log:q}"

    rule draw_algorithms:
        """Who squeezes at equal margin, and what a margin costs."""
        input:
            table=f"{RESULTS}/tables/algorithms.csv",
            verdicts=f"{RESULTS}/tables/verdicts.csv",
        output:
            multiext(f"{RESULTS}/figures/algorithms", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_algorithms.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_algorithms"),
            code=code("draw_algorithms"),
            study=figure_study("algorithms"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q}"
            " --verdicts {input.verdicts:q} --out {output:q} --log {log:q}"


if "forget" in FIGURE_NAMES:

    rule make_forget:
        """Every forgetting run along the fall of what it forgets, and unlikely against likely."""
        input:
            trajectories=expand(
                f"{RUN}/trajectory.parquet",
                dataset=STUDY.config["figures"]["forget"]["dataset"],
                model=STUDY.config["figures"]["forget"]["model"],
                run=[entry["run"] for entry in STUDY.forget_runs()],
                seed=STUDY.seeds_of("forget"),
            ),
        output:
            table=f"{RESULTS}/tables/forget.csv",
            comparison=f"{RESULTS}/tables/forgetting.csv",
            markdown=f"{RESULTS}/tables/forget.md",
        log:
            f"{RESULTS}/logs/make_forget.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_forget"),
            code=code("make_forget"),
            study=json.dumps(
                {**json.loads(figure_study("forget")), "runs": STUDY.forget_runs()}
            ),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --out {output.table:q} --comparison {output.comparison:q}"
            " --markdown {output.markdown:q} --log {log:q}"

    rule draw_forget:
        """What the rest pays when a likely response is pushed away, or an unlikely one."""
        input:
            table=f"{RESULTS}/tables/forget.csv",
            comparison=f"{RESULTS}/tables/forgetting.csv",
        output:
            multiext(f"{RESULTS}/figures/forget", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_forget.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_forget"),
            code=code("draw_forget"),
            study=figure_study("forget"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q}"
            " --comparison {input.comparison:q} --out {output:q} --log {log:q}"


if "forks" in FIGURE_NAMES:

    rule make_forks:
        """Branches of saved models, and what of the loss's changes is due to which part of it."""
        input:
            trajectories=expand(
                f"{RUN}/trajectory.parquet",
                dataset=STUDY.config["figures"]["forks"]["dataset"],
                model=STUDY.config["figures"]["forks"]["model"],
                run=[entry["run"] for entry in STUDY.forks()],
                seed=STUDY.seeds_of("forks"),
            ),
        output:
            table=f"{RESULTS}/tables/forks.csv",
            parts=f"{RESULTS}/tables/fork_parts.csv",
        log:
            f"{RESULTS}/logs/make_forks.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_forks"),
            code=code("make_forks"),
            study=json.dumps(
                {**json.loads(figure_study("forks")), "runs": STUDY.forks()}
            ),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --out {output.table:q} --parts {output.parts:q} --log {log:q}"

    rule draw_forks:
        """Which part of the loss moves what."""
        input:
            table=f"{RESULTS}/tables/forks.csv",
            parts=f"{RESULTS}/tables/fork_parts.csv",
        output:
            multiext(f"{RESULTS}/figures/forks", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_forks.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_forks"),
            code=code("draw_forks"),
            study=figure_study("forks"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q}"
            " --parts {input.parts:q} --out {output:q} --log {log:q}"

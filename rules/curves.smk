"""The trajectory figures: one rule for all of them, and one for the imported published runs.

Requires trajectories; tables/heatmap.csv for figures/sft, where the study has it. Makes
figures/{sft,dpo,extend,rephrase,sft_models,dpo_models,sft_then_dpo,pipelines}.pdf and .png, and
figures/published-{sft,dpo,rephrase} where published runs are configured.
"""

CURVES = [
    figure
    for figure in (
        "sft",
        "dpo",
        "extend",
        "rephrase",
        "sft_models",
        "dpo_models",
        "sft_then_dpo",
        "pipelines",
    )
    if figure in FIGURE_NAMES
]
# Roles whose run is drawn behind those that lead to it.
BEHIND = ["then", "baseline", "extend", "matched", "irrelevant"]


def curve_figure(figure):
    """What a trajectory figure must know of the study: its cells, and by role a chain of runs."""
    spec = STUDY.config["figures"][figure]
    runs = spec["runs"]
    named = runs if isinstance(runs, dict) else {run: run for run in runs}
    whole = BEHIND if figure != "pipelines" else named
    datasets = spec.get("datasets") or [spec["dataset"]]
    models = spec.get("models") or [spec["model"]]
    chains = {
        role: STUDY.chain(run) if role in whole else [(run, None)]
        for role, run in named.items()
    }
    known = {run for chain in chains.values() for run, _ in chain}
    return {
        "study": STUDY.name,
        "seeds": STUDY.seeds,
        "dataset": ", ".join(datasets),
        "model": ", ".join(models),
        "datasets": datasets,
        "models": models,
        "chains": chains,
        **(
            {"specs": {r: STUDY.runs[r] for r in sorted(known)}}
            if figure == "pipelines"
            else {}
        ),
        **(
            {"sft_epochs": {run: STUDY.sft_epochs(run) for run in runs}}
            if figure == "sft_then_dpo"
            else {}
        ),
    }


def published_study(role):
    """The study's own runs beside the imported ones; none where it judges none of its own."""
    spec = STUDY.config["figures"]["squeeze"]
    dataset, model = spec["dataset"], spec["model"]
    return {
        "study": STUDY.name,
        "seeds": STUDY.seeds,
        "dataset": dataset,
        "model": model,
        "datasets": [dataset] if STUDY.config["claims"]["evaluate"] else [],
        "models": [model],
        "chains": {role: [(spec["runs"][role], None)]},
    }


def curve_trajectories(known):
    """The trajectories that a figure reads."""
    return [
        f"{run_folder(dataset, model, run, seed)}/trajectory.parquet"
        for dataset in known["datasets"]
        for model in known["models"]
        for run in dict.fromkeys(r for c in known["chains"].values() for r, _ in c)
        for seed in STUDY.seeds
    ]


def influence_table(figure):
    """The heat map's table, for the figure that shows it."""
    wanted = figure == "sft" and "heatmap" in TABLE_NAMES
    return [f"{RESULTS}/tables/heatmap.csv"] if wanted else []


for drawn in CURVES:

    rule:
        name:
            f"draw_{drawn}"
        input:
            trajectories=(
                curve_trajectories(curve_figure(drawn)) if drawn != "pipelines" else []
            ),
            heatmap=influence_table(drawn),
        output:
            multiext(f"{RESULTS}/figures/{drawn}", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_{drawn}.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script(f"draw_{drawn}"),
            code=code(f"draw_{drawn}"),
            study=json.dumps(curve_figure(drawn)),
            root=lambda wildcards: RESULTS,
            heatmap=[
                word
                for table in influence_table(drawn)
                for word in ("--heatmap", table)
            ],
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " {params.heatmap:q} --out {output:q} --log {log:q}"


for panels, names in PUBLISHED_RUNS.items():
    if names:

        rule:
            name:
                f"draw_published_{panels}"
            input:
                published=expand(f"{RESULTS}/published/{{name}}.parquet", name=names),
                ours=curve_trajectories(
                    published_study("dpo" if panels == "dpo" else "sft")
                ),
            output:
                multiext(f"{RESULTS}/figures/published-{panels}", ".pdf", ".png"),
            log:
                f"{RESULTS}/logs/draw_published_{panels}.log",
            localrule: True
            conda:
                "../envs/learning-dynamics.yaml"
            params:
                script=script("draw_published"),
                code=code("draw_published"),
                panels=panels,
                study=json.dumps(published_study("dpo" if panels == "dpo" else "sft")),
                root=lambda wildcards: RESULTS,
                runs=lambda wildcards, input: [
                    f"{Path(path).stem}={path}" for path in input.published
                ],
            shell:
                "{params.script} --study {params.study:q} --results {params.root:q}"
                " --panels {params.panels} --runs {params.runs:q} --out {output:q} --log {log:q}"

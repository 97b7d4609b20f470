"""Proposition 1 along real runs: what first-order influence predicts, and where it ends.

Requires influence.parquet of the figure's runs. Makes tables/{influence_along,influence_parts}.csv
and figures/influence.pdf and .png.
"""

if "influence" in FIGURE_NAMES:

    rule make_influence:
        """How much of a run the first order predicts, by rate, updates and type."""
        input:
            run_files("influence", "influence.parquet"),
        output:
            table=f"{RESULTS}/tables/influence_along.csv",
            parts=f"{RESULTS}/tables/influence_parts.csv",
        log:
            f"{RESULTS}/logs/make_influence.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_influence"),
            code=code("make_influence"),
            study=figure_study("influence"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --out {output.table:q} --parts {output.parts:q} --log {log:q}"

    rule draw_influence:
        """Predicted against measured, over training, rate and updates; and through which response."""
        input:
            run_files("influence", "influence.parquet"),
            table=f"{RESULTS}/tables/influence_along.csv",
            parts=f"{RESULTS}/tables/influence_parts.csv",
        output:
            multiext(f"{RESULTS}/figures/influence", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_influence.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_influence"),
            code=code("draw_influence"),
            study=figure_study("influence"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q}"
            " --table {input.table:q} --parts {input.parts:q} --out {output:q} --log {log:q}"

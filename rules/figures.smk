"""Figures, drawn from tables and trajectories alone: no model is loaded here.

Requires trajectories and tables. Makes figures/<name>.pdf and .png.
"""


rule draw_squeeze:
    """Where the mass goes: theory, DPO at y⁻ prefixes and along y⁺, one step, extend."""
    input:
        trajectories=trajectories("squeeze"),
        one_step=one_steps(),
        theory=f"{RESULTS}/theory/squeeze.csv",
    output:
        multiext(f"{RESULTS}/figures/squeeze", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/draw_squeeze.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("draw_squeeze"),
        code=code("draw_squeeze"),
        study=figure_study("squeeze"),
        root=lambda wildcards: RESULTS,
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
        " --log {log:q}"


if "dose" in FIGURE_NAMES:

    rule draw_dose:
        """The squeezing statistics of DPO over learning rate × updates."""
        input:
            table=f"{RESULTS}/tables/dose.csv",
        output:
            multiext(f"{RESULTS}/figures/dose", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_dose.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_dose"),
            code=code("draw_dose"),
            study=figure_study("dose"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q} --out {output:q}"
            " --log {log:q}"


rule draw_probe:
    """The data card as a picture."""
    input:
        probes=card_probes(),
        pairs=f"{RESULTS}/data/{CARD['dataset']}/pairs.parquet",
        model=f"{home(CARD['model'], STUDY.seeds[0])}/model",
    output:
        multiext(f"{RESULTS}/figures/probe", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/draw_probe.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("draw_probe"),
        code=code("draw_probe"),
        study=figure_study("probe"),
    shell:
        "{params.script} --probes {input.probes:q} --pairs {input.pairs:q} --model {input.model:q}"
        " --study {params.study:q} --out {output:q} --log {log:q}"


rule draw_confounds:
    """Is the machine fingerprint an artefact, and what each published fault changes."""
    input:
        trajectories=confound_trajectories(),
        tables=expand(
            f"{RESULTS}/tables/{{name}}.csv",
            name=["confounds", "influence", "fingerprint", "fingerprint-course"],
        ),
    output:
        multiext(f"{RESULTS}/figures/confounds", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/draw_confounds.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("draw_confounds"),
        code=code("draw_confounds"),
        study=figure_study("confounds"),
        root=lambda wildcards: RESULTS,
    shell:
        "{params.script} --study {params.study:q} --results {params.root:q}"
        " --tables {input.tables:q} --out {output:q} --log {log:q}"


rule publish_figure:
    """The configured study's figure under the name that people type, as PDF and PNG."""
    input:
        multiext(f"{RESULTS}/figures/{{figure}}", ".pdf", ".png"),
    output:
        *(
            report(
                f"figures/{{figure}}.{extension}",
                caption="../report/caption.rst",
                category="Figures",
                labels={"figure": "{figure}", "format": extension},
            )
            for extension in ("pdf", "png")
        ),
    log:
        f"{RESULTS}/logs/publish_figure/{{figure}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        caption=lambda wildcards: CAPTIONS["figures"][wildcards.figure],
    shell:
        "cp {input:q} figures/ 2> {log:q}"

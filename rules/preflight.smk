"""Preflight: a one-minute job per kind of resource that the study asks for (docs/cluster.md).

Requires nothing. Makes results/<study>/preflight/<kind>.json, removed when they are printed.
"""


rule preflight:
    """What is wrong with the place where jobs run, in one line each. Never up to date."""
    input:
        expand(f"{RESULTS}/preflight/{{kind}}.json", kind=PLACES),
    log:
        f"{RESULTS}/logs/preflight.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("report_places"),
    shell:
        "{params.script} --reports {input:q} --log {log:q}"


rule check_place:
    """What is right and wrong where one kind of job runs."""
    output:
        temp(f"{RESULTS}/preflight/{{kind}}.json"),
    log:
        f"{RESULTS}/logs/check_place/{{kind}}.log",
    wildcard_constraints:
        kind=either(PLACES),
    conda:
        "../envs/learning-dynamics.yaml"
    threads: STUDY.config["compute"]["threads"]
    resources:
        **asks_of_a_place(),
    params:
        script=script("check_place"),
        gpus=lambda wildcards: PLACES[wildcards.kind],
        gpu_mb=largest_gpu_mb,
        disk_mb=disk_of_runs_mb,
        fetched=fetched,
    shell:
        "{params.script} --kind {wildcards.kind} --gpus {params.gpus} --gpu-mb {params.gpu_mb}"
        " --threads {threads} --minutes {resources.runtime} --scratch {resources.tmpdir:q}"
        " --disk-mb {params.disk_mb} --fetched {params.fetched:q} --out {output:q} --log {log:q}"

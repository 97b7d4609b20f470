"""Preference pairs and probe sets.

Requires nothing, a local file, or the hub.
Makes data/<dataset>/pairs.parquet, corpus.parquet and probe.parquet.
"""


rule fetch_probing_file:
    """Download a released probing file, pinned to a commit and checked."""
    output:
        f"{RESULTS}/data/{{dataset}}/probing-file.jsonl",
    log:
        f"{RESULTS}/logs/fetch_probing_file/{{dataset}}.log",
    retries: 3
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("fetch_file"),
        code=code("fetch_file"),
        url=lambda wildcards: STUDY.datasets[wildcards.dataset]["probes"]["url"],
        sha256=lambda wildcards: STUDY.datasets[wildcards.dataset]["probes"]["sha256"]
        or "",
    shell:
        "{params.script} --url {params.url:q} --sha256 {params.sha256:q} --out {output:q}"
        " --log {log:q}"


rule build_pairs:
    """Prompt, chosen, rejected; and the texts that a base model may be trained on."""
    input:
        file=probing_file,
    output:
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        corpus=f"{RESULTS}/data/{{dataset}}/corpus.parquet",
    log:
        f"{RESULTS}/logs/build_pairs/{{dataset}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("build_pairs"),
        code=code("build_pairs"),
        spec=lambda wildcards: json.dumps(STUDY.datasets[wildcards.dataset]),
        file=lambda wildcards, input: (
            ["--probing-file", input.file] if input.file else []
        ),
    shell:
        "{params.script} --spec {params.spec:q} {params.file:q}"
        " --pairs {output.pairs:q} --corpus {output.corpus:q} --log {log:q}"


rule build_probes:
    """Every response type that needs no model."""
    input:
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        file=probing_file,
    output:
        f"{RESULTS}/data/{{dataset}}/probe.parquet",
    log:
        f"{RESULTS}/logs/build_probes/{{dataset}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("build_probes"),
        code=code("build_probes"),
        spec=lambda wildcards: json.dumps(STUDY.datasets[wildcards.dataset]),
        probe=json.dumps(STUDY.config["probe"]),
        file=lambda wildcards, input: (
            ["--probing-file", input.file] if input.file else []
        ),
    shell:
        "{params.script} --spec {params.spec:q} --probe {params.probe:q} --pairs {input.pairs:q}"
        " {params.file:q} --out {output:q} --log {log:q}"

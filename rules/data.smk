"""Preference pairs and probe sets.

Requires nothing, a local file, or the hub; a rephrase provider where one is configured.
Makes data/<dataset>/pairs.parquet, corpus.parquet, given.parquet, rephrases.parquet, probe.parquet.
"""

BY_MODEL = [
    name
    for name, spec in STUDY.datasets.items()
    if spec["rephrase"]["provider"] == "transformers"
]


rule fetch_data_file:
    """Download a released file, pinned and checked."""
    output:
        f"{RESULTS}/data/{{dataset}}/files/{{file}}",
    log:
        f"{RESULTS}/logs/fetch_data_file/{{dataset}}/{{file}}.log",
    retries: 3
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("fetch_file"),
        code=code("fetch_file"),
        url=lambda wildcards: download(wildcards)["url"],
        sha256=lambda wildcards: download(wildcards)["sha256"] or "",
    shell:
        "{params.script} --url {params.url:q} --sha256 {params.sha256:q} --out {output:q}"
        " --log {log:q}"


rule build_pairs:
    """Prompt, chosen, rejected; what came with them; and texts for pretraining."""
    input:
        files=data_files,
        template=template_file,
        tokenizer=filter_tokenizer,
    output:
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        corpus=f"{RESULTS}/data/{{dataset}}/corpus.parquet",
        given=f"{RESULTS}/data/{{dataset}}/given.parquet",
    log:
        f"{RESULTS}/logs/build_pairs/{{dataset}}.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("build_pairs"),
        code=code("build_pairs"),
        spec=lambda wildcards: json.dumps(STUDY.datasets[wildcards.dataset]),
        files=lambda wildcards, input: ["--files", *input.files] if input.files else [],
        tokenizer=lambda wildcards, input: (
            ["--tokenizer", input.tokenizer] if input.tokenizer else []
        ),
    shell:
        "{params.script} --spec {params.spec:q} {params.files:q} {params.tokenizer:q}"
        " --pairs {output.pairs:q} --corpus {output.corpus:q} --given {output.given:q}"
        " --log {log:q}"


rule rephrase_probes:
    """The types that a rephrase provider writes; a local rule, because an API needs a network."""
    input:
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        given=f"{RESULTS}/data/{{dataset}}/given.parquet",
    output:
        f"{RESULTS}/data/{{dataset}}/rephrases.parquet",
    log:
        f"{RESULTS}/logs/rephrase_probes/{{dataset}}.log",
    wildcard_constraints:
        dataset=either(name for name in STUDY.datasets if name not in BY_MODEL),
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("rephrase_probes"),
        code=code("rephrase_probes"),
        spec=lambda wildcards: json.dumps(STUDY.datasets[wildcards.dataset]),
        probe=probe_section,
    shell:
        "{params.script} --spec {params.spec:q} --probe {params.probe:q} --pairs {input.pairs:q}"
        " --given {input.given:q} --out {output:q} --log {log:q}"


if BY_MODEL:

    rule rephrase_probes_with_a_model:
        """The same, written by a model of the study."""
        input:
            pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
            given=f"{RESULTS}/data/{{dataset}}/given.parquet",
            model=rephrasing_model,
        output:
            f"{RESULTS}/data/{{dataset}}/rephrases.parquet",
        log:
            f"{RESULTS}/logs/rephrase_probes/{{dataset}}.log",
        wildcard_constraints:
            dataset=either(BY_MODEL),
        conda:
            "../envs/learning-dynamics.yaml"
        threads: STUDY.config["compute"]["threads"]
        resources:
            **asks("rephrase_probes_with_a_model"),
        params:
            script=script("rephrase_probes"),
            code=code("rephrase_probes"),
            spec=lambda wildcards: json.dumps(STUDY.datasets[wildcards.dataset]),
            probe=probe_section,
            model_spec=lambda wildcards: json.dumps(
                STUDY.models[STUDY.datasets[wildcards.dataset]["rephrase"]["model"]]
            ),
            compute=COMPUTE,
        shell:
            "{params.script} --spec {params.spec:q} --probe {params.probe:q}"
            " --pairs {input.pairs:q} --given {input.given:q} --model {input.model:q}"
            " --model-spec {params.model_spec:q} --compute {params.compute:q} --out {output:q}"
            " --log {log:q}"


rule build_probes:
    """Every response type that needs no base model; warns of what the data card finds."""
    input:
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
        given=f"{RESULTS}/data/{{dataset}}/given.parquet",
        rephrases=f"{RESULTS}/data/{{dataset}}/rephrases.parquet",
        functions=STUDY.own_functions(),
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
        probe=probe_section,
    shell:
        "{params.script} --spec {params.spec:q} --probe {params.probe:q} --pairs {input.pairs:q}"
        " --given {input.given:q} --rephrases {input.rephrases:q} --out {output:q} --log {log:q}"

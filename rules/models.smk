"""Base models, and what they say themselves.

Requires the corpus of a data set, or the hub. Makes models/<model>/[seed<k>/]model (safetensors
and tokenizer) and probe-<dataset>.parquet.
"""

PRETRAINED = [m for m, spec in STUDY.models.items() if spec["source"] == "pretrain"]
FROM_HUB = [m for m, spec in STUDY.models.items() if spec["source"] == "hub"]


if PRETRAINED:

    rule pretrain_model:
        """Train a small model and its tokenizer from scratch."""
        input:
            corpus=lambda wildcards: (
                f"{RESULTS}/data/{STUDY.models[wildcards.model]['corpus']}/corpus.parquet"
            ),
        output:
            model=directory(f"{RESULTS}/models/{{model}}/seed{{seed}}/model"),
            report=f"{RESULTS}/models/{{model}}/seed{{seed}}/model.json",
        log:
            f"{RESULTS}/logs/pretrain_model/{{model}}/seed{{seed}}.log",
        wildcard_constraints:
            model="|".join(PRETRAINED),
        priority: 10
        conda:
            "../envs/learning-dynamics.yaml"
        threads: lambda wildcards: STUDY.models[wildcards.model]["threads"]
        resources:
            **asks("pretrain_model"),
        params:
            script=script("pretrain_model"),
            code=code("pretrain_model"),
            spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        shell:
            "{params.script} --spec {params.spec:q} --corpus {input.corpus:q}"
            " --seed {wildcards.seed} --threads {threads} --out {output.model:q}"
            " --report {output.report:q} --log {log:q}"


if FROM_HUB:

    rule fetch_model:
        """Download a pinned revision of a hub model."""
        output:
            model=directory(f"{RESULTS}/models/{{model}}/model"),
        log:
            f"{RESULTS}/logs/fetch_model/{{model}}.log",
        wildcard_constraints:
            model="|".join(FROM_HUB),
        retries: 3
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("fetch_model"),
            code=code("fetch_model"),
            spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        shell:
            "{params.script} --spec {params.spec:q} --out {output.model:q} --log {log:q}"


rule sample_probes:
    """The response types that the base model itself writes."""
    input:
        model=f"{HOME}/model",
        probes=f"{RESULTS}/data/{{dataset}}/probe.parquet",
    output:
        f"{HOME}/probe-{{dataset}}.parquet",
    log:
        f"{RESULTS}/logs/sample_probes/{{home}}/{{dataset}}.log",
    conda:
        "../envs/learning-dynamics.yaml"
    threads: STUDY.config["compute"]["threads"]
    resources:
        **asks("sample_probes"),
    params:
        script=script("sample_probes"),
        code=code("sample_probes"),
        spec=lambda wildcards: json.dumps(
            STUDY.models[STUDY.model_of_home(wildcards.home)[0]]
        ),
        probe=probe_section,
        compute=COMPUTE,
        texts=texts_of,
        seed=lambda wildcards: STUDY.model_of_home(wildcards.home)[1],
    shell:
        "{params.script} --model {input.model:q} --model-spec {params.spec:q}"
        " --probe {params.probe:q} --compute {params.compute:q} --texts {params.texts:q}"
        " --probes {input.probes:q}"
        " --seed {params.seed} --out {output:q} --log {log:q}"

"""The warm-up on images of digits: one update, all updates, and the kernel along training.

Requires nothing, or the hub. Makes digits/images.parquet; per network and seed training.parquet,
predictions.parquet and one-step.parquet, and entk.parquet and entk-training.parquet;
tables/digits.csv; figures/{mnist,entk_mnist}.pdf and .png. Everything runs on CPU.
"""

DIGITS = f"{RESULTS}/digits"
DIGITS_RUN = f"{DIGITS}/{{network}}/seed{{seed}}"
TRAINED_WITH = ["batch_size", "lr", "momentum", "weight_decay"]


rule fetch_digits:
    """Images and labels, a fixed draw."""
    output:
        f"{DIGITS}/images.parquet",
    log:
        f"{RESULTS}/logs/fetch_digits.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("fetch_digits"),
        code=code("fetch_digits"),
        spec=digits_spec("source", "hub", "revision", "train_rows", "test_rows"),
    shell:
        "{params.script} --spec {params.spec:q} --out {output:q} --log {log:q}"


rule learn_digits:
    """Train a network, look at its predictions, and take single steps from its end."""
    input:
        f"{DIGITS}/images.parquet",
    output:
        training=f"{DIGITS_RUN}/training.parquet",
        predictions=f"{DIGITS_RUN}/predictions.parquet",
        one_step=f"{DIGITS_RUN}/one-step.parquet",
    log:
        f"{RESULTS}/logs/learn_digits/{{network}}/seed{{seed}}.log",
    wildcard_constraints:
        network="mlp|lenet",
    conda:
        "../envs/learning-dynamics.yaml"
    resources:
        **asks("learn_digits"),
    params:
        script=script("learn_digits"),
        code=code("learn_digits"),
        spec=digits_spec(*TRAINED_WITH, "epochs", "lr_end", "one_step"),
    shell:
        "{params.script} --images {input:q} --network {wildcards.network} --spec {params.spec:q}"
        " --seed {wildcards.seed} --training {output.training:q}"
        " --predictions {output.predictions:q} --one-step {output.one_step:q} --log {log:q}"


rule track_entk:
    """Train a network for long and follow its kernel."""
    input:
        f"{DIGITS}/images.parquet",
    output:
        entk=f"{DIGITS_RUN}/entk.parquet",
        training=f"{DIGITS_RUN}/entk-training.parquet",
    log:
        f"{RESULTS}/logs/track_entk/{{network}}/seed{{seed}}.log",
    wildcard_constraints:
        network="mlp|lenet",
    conda:
        "../envs/learning-dynamics.yaml"
    resources:
        **asks("track_entk"),
    params:
        script=script("track_entk"),
        code=code("track_entk"),
        spec=digits_spec(*TRAINED_WITH, "entk"),
    shell:
        "{params.script} --images {input:q} --network {wildcards.network} --spec {params.spec:q}"
        " --seed {wildcards.seed} --entk {output.entk:q} --training {output.training:q}"
        " --log {log:q}"


if DIGITS_FIGURES:

    rule make_digits:
        """The numbers behind the digits figures."""
        input:
            digits_tables("mnist", "training", "predictions", "one-step"),
            digits_tables("entk_mnist", "entk", "entk-training"),
        output:
            f"{RESULTS}/tables/digits.csv",
        log:
            f"{RESULTS}/logs/make_digits.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_digits"),
            code=code("make_digits"),
            root=lambda wildcards: RESULTS,
            seeds=DIGITS_SEEDS,
            dense=STUDY.config["digits"]["entk"]["dense"],
            learnt=DIGITS_FIGURES.get("mnist", []),
            tracked=DIGITS_FIGURES.get("entk_mnist", []),
        shell:
            "{params.script} --results {params.root:q} --seeds {params.seeds}"
            " --learnt {params.learnt} --tracked {params.tracked} --dense {params.dense}"
            " --out {output:q} --log {log:q}"


if "mnist" in DIGITS_FIGURES:

    rule draw_mnist:
        """One update on an image of a 4, and all updates together."""
        input:
            digits_tables("mnist", "predictions", "one-step"),
        output:
            multiext(f"{RESULTS}/figures/mnist", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_mnist.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_mnist"),
            code=code("draw_mnist"),
            study=digits_study("mnist"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"


if "entk_mnist" in DIGITS_FIGURES:

    rule draw_entk_mnist:
        """The kernel between classes along training, and its phases."""
        input:
            digits_tables("entk_mnist", "entk", "entk-training"),
        output:
            multiext(f"{RESULTS}/figures/entk_mnist", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_entk_mnist.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_entk_mnist"),
            code=code("draw_entk_mnist"),
            study=digits_study("entk_mnist"),
            root=lambda wildcards: RESULTS,
        shell:
            "{params.script} --study {params.study:q} --results {params.root:q} --out {output:q}"
            " --log {log:q}"

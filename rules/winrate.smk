"""What checkpoints write: win rates of one run over another, leaks of other prompts' facts, and
repetition.

Requires pairs, base models and runs; a judge for win rates. Makes answers[-epoch<e>].parquet in the
runs' folders, verdicts.parquet, tables/{winrate,hallucination}.csv and
figures/{winrate,hallucination}.pdf and .png.
"""

JUDGE = STUDY.config["judge"]


rule generate_answers:
    """Answers to held-out (and some training) prompts at a checkpoint of a run."""
    input:
        model=model_at,
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
    output:
        f"{RUN}/answers{{at}}.parquet",
    log:
        f"{RESULTS}/logs/generate_answers/{{dataset}}/{{model}}/{{run}}{{at}}/seed{{seed}}.log",
    wildcard_constraints:
        at=r"(-epoch[0-9.]+)?",
    conda:
        "../envs/learning-dynamics.yaml"
    threads: STUDY.config["compute"]["threads"]
    resources:
        **asks("generate_answers"),
    params:
        script=script("generate_answers"),
        code=code("generate_answers"),
        model=lambda wildcards, input: model_within(
            input.model, wildcards.at.removeprefix("-epoch")
        ),
        model_spec=lambda wildcards: json.dumps(STUDY.models[wildcards.model]),
        answers=json.dumps(STUDY.config["answers"]),
        seed=lambda wildcards: wildcards.seed,
        compute=COMPUTE,
        texts=texts_of,
    shell:
        "{params.script} --model {params.model:q} --model-spec {params.model_spec:q}"
        " --answers {params.answers:q} --compute {params.compute:q} --texts {params.texts:q}"
        " --pairs {input.pairs:q} --seed {params.seed} --out {output:q} --log {log:q}"


use rule generate_answers as generate_answers_of_base with:
    input:
        model=f"{HOME}/model",
        pairs=f"{RESULTS}/data/{{dataset}}/pairs.parquet",
    output:
        f"{HOME}/answers-{{dataset}}.parquet",
    log:
        f"{RESULTS}/logs/generate_answers/{{home}}/{{dataset}}.log",
    params:
        script=script("generate_answers"),
        code=code("generate_answers"),
        model=lambda wildcards, input: input.model,
        model_spec=lambda wildcards: json.dumps(
            STUDY.models[STUDY.model_of_home(wildcards.home)[0]]
        ),
        answers=json.dumps(STUDY.config["answers"]),
        seed=lambda wildcards: STUDY.model_of_home(wildcards.home)[1],
        compute=COMPUTE,
        texts=texts_of,


if "winrate" in FIGURE_NAMES:

    rule judge_answers:
        """Which of two runs' answers to the same prompt is better; local where the judge is an
        endpoint, because that needs a network."""
        input:
            answers=[entry["path"] for entry in answers_of("winrate")],
            function=(JUDGE["function"].rpartition(":")[0] if JUDGE["function"] else []),
            model=(
                f"{home(JUDGE['model'], STUDY.seeds[0])}/model"
                if JUDGE["provider"] == "transformers"
                else []
            ),
        output:
            f"{RESULTS}/verdicts.parquet",
        log:
            f"{RESULTS}/logs/judge_answers.log",
        localrule: JUDGE["provider"] != "transformers"
        conda:
            "../envs/learning-dynamics.yaml"
        threads: STUDY.config["compute"]["threads"]
        resources:
            **asks("judge_answers"),
        params:
            script=script("judge_answers"),
            code=code("judge_answers"),
            study=lambda wildcards: written_study("winrate"),
            # A function, because a plain string's braces would be taken for wildcards.
            judge=lambda wildcards: json.dumps(
                {
                    **JUDGE,
                    "world_seed": json.loads(written_study("winrate"))["world_seed"],
                }
            ),
            model=lambda wildcards, input: (
                [
                    "--model",
                    input.model,
                    "--model-spec",
                    json.dumps(STUDY.models[JUDGE["model"]]),
                    "--compute",
                    COMPUTE,
                ]
                if input.model
                else []
            ),
        shell:
            "{params.script} --study {params.study:q} --judge {params.judge:q} {params.model:q}"
            " --out {output:q} --log {log:q}"

    rule make_winrate:
        """Win rates with their intervals: the paper's Table 1."""
        input:
            f"{RESULTS}/verdicts.parquet",
        output:
            f"{RESULTS}/tables/winrate.csv",
        log:
            f"{RESULTS}/logs/make_winrate.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_winrate"),
            code=code("make_winrate"),
            judge=lambda wildcards: json.dumps(JUDGE),
        shell:
            "{params.script} --verdicts {input:q} --judge {params.judge:q} --out {output:q}"
            " --log {log:q}"

    rule draw_winrate:
        """Win rates over the epochs of DPO, with the paper's own beside them."""
        input:
            table=f"{RESULTS}/tables/winrate.csv",
        output:
            multiext(f"{RESULTS}/figures/winrate", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_winrate.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_winrate"),
            code=code("draw_winrate"),
            study=figure_study("winrate"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q} --out {output:q}"
            " --log {log:q}"

elif "winrate" in STUDY.config["figures"]:

    rule winrate_without_a_judge:
        """Says why there is no win rate; part of no default target."""
        output:
            "figures/winrate.pdf",
            "figures/winrate.png",
            "tables/winrate.csv",
        localrule: True
        params:
            why=NO_JUDGE,
        shell:
            "echo error: {params.why:q} >&2; exit 2"


if "hallucination" in FIGURE_NAMES:

    rule make_hallucination:
        """Facts of other prompts, repetition and copying in what is written, from base to DPO."""
        input:
            answers=[entry["path"] for entry in answers_of("hallucination")],
            pairs=f"{RESULTS}/data/{STUDY.config['figures']['hallucination']['dataset']}/pairs.parquet",
        output:
            f"{RESULTS}/tables/hallucination.csv",
        log:
            f"{RESULTS}/logs/make_hallucination.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("make_hallucination"),
            code=code("make_hallucination"),
            study=lambda wildcards: written_study("hallucination"),
        shell:
            "{params.script} --study {params.study:q} --pairs {input.pairs:q} --out {output:q}"
            " --log {log:q}"

    rule draw_hallucination:
        """Whose facts an answer states, and whether it repeats and copies, along the runs."""
        input:
            table=f"{RESULTS}/tables/hallucination.csv",
        output:
            multiext(f"{RESULTS}/figures/hallucination", ".pdf", ".png"),
        log:
            f"{RESULTS}/logs/draw_hallucination.log",
        localrule: True
        conda:
            "../envs/learning-dynamics.yaml"
        params:
            script=script("draw_hallucination"),
            code=code("draw_hallucination"),
            study=figure_study("hallucination"),
        shell:
            "{params.script} --study {params.study:q} --table {input.table:q} --out {output:q}"
            " --log {log:q}"

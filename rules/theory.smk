"""One gradient step on a softmax: the theory panel's numbers as a table.

Requires nothing. Makes theory/squeeze.csv.
"""


rule compute_theory:
    """Before, after and Lemma 1's ratio for the four regimes of App. E."""
    output:
        f"{RESULTS}/theory/squeeze.csv",
    log:
        f"{RESULTS}/logs/compute_theory.log",
    localrule: True
    conda:
        "../envs/learning-dynamics.yaml"
    params:
        script=script("compute_theory"),
        code=code("compute_theory"),
    shell:
        "{params.script} --out {output:q} --log {log:q}"

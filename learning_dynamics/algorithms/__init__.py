"""The algorithms: what each one reads. Its loss is the function of the same name in ``losses``.

Torch-free, because Snakemake reads this table while it plans.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """What a finetuning algorithm needs of a training row.

    Attributes:
        responses: the responses that its loss scores, each a column of the row.
        reference: whether the loss compares with the reference model's log-probs.
        settings: the settings of a run that only some algorithms read, and this one does.
        source: where its equation stands; numbers without a name are the paper's.
    """

    responses: tuple[str, ...]
    reference: bool
    settings: tuple[str, ...]
    source: str


ALGORITHMS = {
    "sft": Algorithm(("chosen",), False, ("target", "rows"), "eq. 4 and 10"),
    "dpo": Algorithm(
        ("chosen", "rejected"), True, ("beta", "labels"), "eq. 6; Rafailov et al. 2023, eq. 7"
    ),
}
# Settings that belong to some algorithms alone: a run carries only those that its own reads.
SPECIAL_SETTINGS = {name for algorithm in ALGORITHMS.values() for name in algorithm.settings}

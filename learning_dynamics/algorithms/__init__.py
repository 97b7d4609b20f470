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
        source: where its equation stands; numbers without a name are the paper's.
    """

    responses: tuple[str, ...]
    reference: bool
    source: str


ALGORITHMS = {
    "sft": Algorithm(("chosen",), False, "eq. 4 and 10"),
    "dpo": Algorithm(("chosen", "rejected"), True, "eq. 6; Rafailov et al. 2023, eq. 7"),
}

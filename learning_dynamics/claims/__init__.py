"""Claims: sentences of the paper, each with the statistic that decides it, judged for every data
set × model (docs/statistics.md, section "Claims"). Torch-free.

``parts`` says what a claim is, ``sft`` and ``dpo`` declare them, ``evidence`` is what they read,
``inference`` how numbers become verdicts, ``verdicts`` the tables, ``report`` the text,
``imported`` the roles of the published runs, ``mechanism`` what first-order influence predicts.
"""

from learning_dynamics.claims.evidence import Evidence, Missing
from learning_dynamics.claims.parts import Claim, Part
from learning_dynamics.claims.recorded import Recorded
from learning_dynamics.claims.verdicts import CLAIMS, Column, tables, weigh

__all__ = [
    "CLAIMS",
    "Claim",
    "Column",
    "Evidence",
    "Missing",
    "Part",
    "Recorded",
    "tables",
    "weigh",
]

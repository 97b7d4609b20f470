"""The claims about SFT, and about what it does to other responses (C1 to C9, C15)."""

from dataclasses import replace

import numpy as np

from learning_dynamics.claims.evidence import Evidence, Missing, mean_move, percent
from learning_dynamics.claims.parts import CORRELATION, Claim, Part, down, up

SMALL, ORDINARY, LARGE, CORRELATED = 2.0, 5.0, 10.0, 0.5  # docs/statistics.md, "Claims"
SIMILAR = ["rejected", "chosen_gptsemantic", "chosen_gptformat"]
MACHINE = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
           "irr_hum"]  # fmt: skip
# What the runs on single response types (the heat map's) are trained on, by role.
UPDATES = {"on_chosen": "chosen", "on_rejected": "rejected", "on_gpts": "chosen_gptsemantic",
           "on_gpts_rejected": "reject_gptsemantic", "on_hum": "irr_hum"}  # fmt: skip


def _rises(of: Evidence) -> list[Part]:
    half = of.last_step("sft") / 2
    return [
        up("rise of y⁺", of.change("sft", "logp", "chosen"), ORDINARY),
        up("… in the second half", of.change("sft", "logp", "chosen", since=half), SMALL),
    ]


def _bells(of: Evidence) -> list[Part]:
    apart, together = (
        [mean_move(moves) for moves in zip(*(of.bell("sft", k, apart) for k in SIMILAR),
                                           strict=True)]
        for apart in (True, False)
    )  # fmt: skip
    rises, falls = zip(apart, together, strict=True)
    return [
        replace(up("rise to the peak", rises[0], SMALL), at_most=rises[1].percent),
        replace(down("change after the peak", falls[0], SMALL), at_most=falls[1].percent),
    ]


def _shuffled(of: Evidence) -> list[Part]:
    return [down("shuffled words", of.mean_change("sft", "logp", of.shuffled("sft")), SMALL)]


def _other_answers(of: Evidence) -> list[Part]:
    own, train, test = (of.change("sft", "logp", k) for k in ("chosen", "irr_train", "irr_test"))
    return [
        up("irr_train", train, ORDINARY),
        up("y⁺ − irr_train", own - train, ORDINARY),
        up("irr_train − irr_test", train - test, ORDINARY),
    ]


def _agreement(of: Evidence) -> list[Part]:
    """One part per other model and algorithm that both have."""
    parts = []
    for peer in of.peers:
        for role in ("sft", "dpo"):
            both = (role, f"{role}@{peer}")
            if not all(map(of.has, both)):
                continue
            kinds = [["chosen", "rejected", *of.others(each)] for each in both]
            shared = [kind for kind in kinds[0] if kind in kinds[1]]
            moves = [[of.change(each, "logp", kind) for kind in shared] for each in both]
            values, clusters = of.correlation(*moves)
            label = f"r over types with {peer}, {role}"
            parts.append(Part(label, values, +1, CORRELATED, CORRELATION, clusters=clusters))
    if not parts:
        raise Missing("a second model with the same runs")
    return parts


def _influence(of: Evidence) -> list[Part]:
    kinds = of.others("on_chosen")
    kinds = ["chosen", "rejected", *kinds]
    moves = {role: {k: of.change(role, "logp", k) for k in kinds} for role in UPDATES}
    # The largest of many is too large by noise: that is the side of caution for support.
    ahead = [
        sum(moves[role][own].percent - of.largest([m for k, m in moves[role].items() if k != own],
                                                  apart) for role, own in UPDATES.items())
        for apart in (False, True)
    ]  # fmt: skip
    under = moves["on_chosen"]
    rest = [under[k] for k in kinds if k not in ("chosen", "irr_train")]
    mutual = [moves[role][k] for role, own in UPDATES.items() if own in MACHINE
              for k in MACHINE if k != own and k in kinds]  # fmt: skip
    shuffled = [moves[role][k] for role in UPDATES for k in of.shuffled("on_chosen")]
    parts = [
        Part("own type − largest other", ahead[0] / len(UPDATES), +1, ORDINARY,
             at_most=ahead[1] / len(UPDATES)),
        up("under y⁺: irr_train − the rest", under["irr_train"] - mean_move(rest), ORDINARY),
        up("machine types, mutually", mean_move(mutual), ORDINARY),
        down("shuffled words", mean_move(shuffled), ORDINARY),
    ]  # fmt: skip
    if of.has("on_dpo"):
        by_type = [of.change("on_dpo", "logp", k) for k in kinds if k not in ("chosen", "rejected")]
        parts.append(down("others under DPO", mean_move(by_type), ORDINARY))
    return parts


def _stable(of: Evidence) -> list[Part]:
    kinds = ["chosen", "rejected", *of.others("sft")]
    half = of.last_step("sft") / 2
    early = [of.change("sft", "logp", kind, until=half) for kind in kinds]
    late = [of.change("sft", "logp", kind, since=half) for kind in kinds]
    values, clusters = of.correlation(early, late)
    label = "r over types, first and second half"
    return [Part(label, values, +1, CORRELATED, CORRELATION, clusters=clusters)]


def _rephrases(of: Evidence) -> list[Part]:
    if of.text is None:
        raise Missing("HH or UltraFeedback text: the sentence is about them")
    ends = [of.curve("sft", "logp", k)[1][..., -1, :]
            for k in ("chosen", "chosen_gptsemantic", "chosen_gptformat")]  # fmt: skip
    gaps = []
    for rewrite in ends[1:]:
        gap = ends[0] - rewrite
        gaps.append(gap * np.sign(np.nanmean(gap, -1, keepdims=True)))
    sign = +1 if of.text == "hh" else -1
    return [up("distance of gpts⁺ − that of gptf⁺", percent(sign * (gaps[0] - gaps[1]), ends[0]),
               ORDINARY)]  # fmt: skip


def _peaks(of: Evidence) -> list[Part]:
    for column in ("prob_norm", "A_o"):
        try:
            of.curve("sft", column, "chosen")
        except Missing:
            continue
        moves = {kind: of.change("sft", column, kind) for kind in of.kinds("sft")}
        return [Part(f"‖π‖ along {kind}", move.percent, +1, ORDINARY)
                for kind, move in moves.items()]  # fmt: skip
    raise Missing("prob_norm or A_o of chosen in run sft")


def _extended(of: Evidence) -> list[Part]:
    plus, minus = ([of.change(role, "logp", kind) for role in ("sft_extend", "sft_matched")]
                   for kind in ("chosen", "rejected"))  # fmt: skip
    return [
        up("y⁻: extend − twin", minus[0] - minus[1], LARGE),
        up("y⁺: extend − half of twin", plus[0] - plus[1].times(0.5), ORDINARY),
    ]


SFT_CLAIMS = [
    Claim("C1", "SFT raises y⁺, to the end", "Sec 4.1, Fig 3", "sft", _rises),
    Claim("C2", "SFT: similar responses rise, then fall", "Sec 4.1, Fig 3", "sft", _bells),
    Claim("C3", "SFT: shuffled words fall", "Sec 4.1, Fig 3", "sft", _shuffled),
    Claim("C4", "SFT raises answers to other questions, less than y⁺", "Sec 4.1, Fig 3", "sft",
          _other_answers),
    Claim("C5", "models agree", "Sec 4, Figs 14, 15", "sft", _agreement),
    Claim("C6", "what is trained on rises most, machine types raise each other", "Fig 3, heat map",
          "on_chosen", _influence),
    Claim("C7", "relative influence is stable in time", "App C.2, Fig 8", "sft", _stable),
    Claim("C8", "y⁺ is nearer to one of its rewrites", "App D.2, Fig 13", "sft", _rephrases),
    Claim("C9", "SFT makes every prediction peakier", "App C.2, Fig 9", "sft", _peaks),
    Claim("C15", "extend lifts y⁻ in SFT, and y⁺ as the baseline does", "Sec 4.3, Fig 5",
          "sft_extend", _extended),
]  # fmt: skip

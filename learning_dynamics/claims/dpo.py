"""The claims about DPO, squeezing and extend (C10 to C14, C16, C17, S1 to S3, O1, O2)."""

import numpy as np

from learning_dynamics.claims.evidence import Evidence, Missing, Move, percent, read
from learning_dynamics.claims.parts import NATS, POINTS, Claim, Part, down, up
from learning_dynamics.claims.sft import LARGE, ORDINARY

CONTROLS = {"continued": "SFT continued", "coinflip": "coin-flip"}
STEP_CONTROLS = {"coinflip": "coin-flip step", "sft": "SFT step"}
OF_CHOSEN, OF_REJECTED = (["chosen_gptsemantic", "chosen_gptformat"],
                          ["reject_gptsemantic", "reject_gptformat"])  # fmt: skip


def _margin(of: Evidence) -> list[Part]:
    curves = [of.curve("dpo", "logp", kind)[1] for kind in ("chosen", "rejected")]
    gap = curves[0] - curves[1]
    grown = percent(gap[..., -1, :] - gap[..., 0, :], curves[1][..., 0, :])
    plus, minus = (of.change("dpo", "logp", kind) for kind in ("chosen", "rejected"))
    shuffled = of.shuffled("dpo")
    rewrites = [of.mean_change("dpo", "logp", kinds) for kinds in (OF_CHOSEN, OF_REJECTED)]
    return [
        up("margin", grown, LARGE),
        *[down(f"y⁻ − {kind}", minus - of.change("dpo", "logp", kind), LARGE)
          for kind in of.others("dpo") if kind not in shuffled],
        up("y⁺ − its rephrases", plus - rewrites[0], LARGE),
        up("rephrases of y⁺ − those of y⁻", rewrites[0] - rewrites[1], LARGE),
    ]  # fmt: skip


def _decay(of: Evidence, along: str) -> list[Part]:
    where = "y⁺" if along == "chosen" else "shuffled words"
    return [
        down("others", of.mean_change("dpo", "logp", of.others("dpo")), LARGE),
        up(f"greedy along {where}", of.change("dpo", "logp_argmax", along), LARGE),
    ]


def _against_sft(of: Evidence, along: str) -> list[Part]:
    """At the largest number of training rows that both runs reach; percent of y⁺'s start."""
    at = {"dpo": ("logp_argmax", along), "sft": ("logp", "chosen")}
    rows = {role: of.examples(role) for role in at}
    equal = min(counted[-1] for counted in rows.values())
    moved = []
    for role, (column, kind) in at.items():
        steps, values = of.curve(role, column, kind)
        until = float(np.interp(equal, rows[role], steps))
        moved.append(read(steps, values, until) - values[..., 0, :])
    start = of.curve("sft", "logp", "chosen")[1][..., 0, :]
    if moved[0].shape[-1] != start.shape[-1]:  # one of them has means alone
        moved, start = [_means(each) for each in moved], _means(start)
    where = "" if along == "chosen" else " along shuffled words"
    label = f"greedy{where} in DPO − y⁺ in SFT, {equal:.0f} rows"
    return [up(label, percent(moved[0] - moved[1], start), ORDINARY)]


def _means(values: np.ndarray) -> np.ndarray:
    return np.nanmean(values, -1, keepdims=True)


def _longer(of: Evidence) -> list[Part]:
    end = min(of.last_step("dpo"), of.last_step("dpo_long"))
    moves = [(of.mean_change(role, "logp", of.others("dpo"), until=end),
              of.change(role, "logp_argmax", "chosen", until=end))
             for role in ("dpo_long", "dpo")]  # fmt: skip
    return [
        down("others: after longer SFT − after SFT", moves[0][0] - moves[1][0], LARGE),
        up("greedy: after longer SFT − after SFT", moves[0][1] - moves[1][1], LARGE),
    ]


def _pushed_down(of: Evidence) -> list[Part]:
    others = of.others("dpo")
    return [
        *[down(kind, of.change("dpo", "logp", kind), LARGE) for kind in ["rejected", *others]],
        up("y⁺ − the others", of.change("dpo", "logp", "chosen")
           - of.mean_change("dpo", "logp", others), LARGE),
    ]  # fmt: skip


def _softer(of: Evidence, greedy: bool) -> list[Part]:
    twins = ["matched", *(["irrelevant"] if of.has("irrelevant") else [])]
    parts = []
    for twin in twins:
        both = ["extend", twin]
        end = min(map(of.last_step, both))

        def moved(role: str, until: float | np.ndarray) -> Move:
            if greedy:
                return of.change(role, "logp_argmax", "chosen", until=until)
            return of.mean_change(role, "logp", of.others(role), until=until)

        for basis, (one, two) in {
            "updates": [moved(role, end) for role in both],
            "margin": of.at_equal_margin(both, moved),
        }.items():
            label = f"extend − {twin} twin, equal {basis}"
            part = down if greedy else up
            parts.append(part(f"{'greedy' if greedy else 'others'}: {label}", one - two, LARGE))
    return parts


def _wins(of: Evidence) -> list[Part]:
    return [
        Part("before DPO − one half", of.win_rate(last=False) - 50, -1, ORDINARY, POINTS),
        Part("after DPO − one half", of.win_rate(last=True) - 50, +1, ORDINARY, POINTS),
    ]


def _beyond(of: Evidence, words: str, column: str, kind: str, part) -> list[Part]:  # noqa: ANN001
    """A change under DPO, and the same above each control."""
    lacking = [f"run {role}" for role in CONTROLS if not of.has(role)]
    dpo = of.change("dpo", column, kind)
    if lacking:
        raise Missing(", ".join(lacking))
    return [
        part(words, dpo, LARGE),
        *[part(f"{words}: DPO − {name}", dpo - of.change(role, column, kind), LARGE)
          for role, name in CONTROLS.items()],
    ]  # fmt: skip


def _valley(of: Evidence) -> list[Part]:
    return [
        *_beyond(of, "y⁻", "logp", "rejected", down),
        *_beyond(of, "best other at y⁻", "logp_top_other", "rejected", up),
    ]


def _squeezing(of: Evidence) -> list[Part]:
    return [
        *_valley(of),
        *_beyond(of, "greedy along y⁺", "logp_argmax", "chosen", up),
        *_beyond(of, "y⁺", "logp", "chosen", down),
    ]


def _same_token(of: Evidence) -> list[Part]:
    return _beyond(of, "greedy at the start, along y⁺", "logp_greedy0", "chosen", up)


def _step(of: Evidence, words: str, column: str, sign: int, smallest: float, unit: str) -> list:
    steps = {kind: of.valley(kind, column) for kind in ("dpo", *STEP_CONTROLS)}
    own = np.arange(steps["dpo"].shape[-1])
    return [
        Part(words, steps["dpo"], sign, smallest, unit, clusters=own),
        *[Part(f"{words}: DPO step − {name}", steps["dpo"] - steps[kind], sign, smallest, unit,
               clusters=own) for kind, name in STEP_CONTROLS.items()],
    ]  # fmt: skip


def _mass(of: Evidence) -> list[Part]:
    return _step(of, "best other's mass", "dp_top_other", +1, 0.05, POINTS)


def _log_step(of: Evidence) -> list[Part]:
    return [
        *_step(of, "best other's log-prob", "dlogp_top_other", +1, 0.1, NATS),
        *_step(of, "all the rest's log-prob", "dlogp_rest", -1, 0.1, NATS),
    ]


DPO_CLAIMS = [
    Claim("C10", "DPO: the margin grows, y⁻ falls fastest, y⁺ least", "Sec 4.2, Fig 4", "dpo",
          _margin),
    Claim("C11", "DPO: the others fall while greedy (along y⁺) rises", "Sec 4.2, Fig 4", "dpo",
          lambda of: _decay(of, "chosen")),
    Claim("C11p", "… greedy along shuffled words, as published", "Sec 4.2, Fig 4", "dpo",
          lambda of: _decay(of, "random_nonhum")),
    Claim("C12", "greedy (along y⁺) rises more in DPO than y⁺ in SFT", "Sec 4.2", "dpo",
          lambda of: _against_sft(of, "chosen")),
    Claim("C12p", "… greedy along shuffled words, as published", "Sec 4.2", "dpo",
          lambda of: _against_sft(of, "random_nonhum")),
    Claim("C13", "longer SFT makes squeezing worse", "App D.3", "dpo_long", _longer),
    Claim("C14", "DPO pushes down every type but y⁺", "App C.2, Fig 8", "dpo", _pushed_down),
    Claim("C16a", "extend softens the decay of the others", "Sec 4.3, Fig 5", "extend",
          lambda of: _softer(of, greedy=False)),
    Claim("C16b", "extend softens the rise of greedy", "Sec 4.3, Fig 5", "extend",
          lambda of: _softer(of, greedy=True)),
    Claim("C17", "extend loses before DPO and wins after", "Sec 4.3, Tab 1", "extend", _wins),
    Claim("S1", "squeezing at y⁻: y⁻ falls, the best other token rises, beyond controls",
          "Sec 3.3, App E", "dpo", _valley),
    Claim("S2", "squeezing, joint: and along y⁺ greedy rises while y⁺ falls", "Sec 3.3, 4.2", "dpo",
          _squeezing),
    Claim("S3", "the token that was greedy at the start gains along y⁺", "Sec 3.3, 4.2", "dpo",
          _same_token),
    Claim("O1", "one step in the valley moves mass to the best other token", "Sec 3.3, App E",
          "sft", _mass),
    Claim("O2", "… raises its log-prob, and lowers all the rest", "Sec 3.3, App E", "sft",
          _log_step),
]  # fmt: skip

"""The squeezing statistics of DPO over learning rate × updates (docs/statistics.md, "Dose")."""

from collections.abc import Mapping

import pandas as pd

from learning_dynamics.dynamics import Trajectories, change, estimate, last_step

# id: (sentence, column, response type or "others", predicted sign)
DOSE = {
    "valley-label": ("DPO pushes y⁻ down", "logp", "rejected", -1),
    "valley-top": ("at y⁻ prefixes the best other token gains", "logp_top_other", "rejected", +1),
    "greedy-up": ("along y⁺ the greedy token gains", "logp_argmax", "chosen", +1),
    "chosen-down": ("y⁺ itself falls", "logp", "chosen", -1),
    "others-down": ("every other response falls (mean)", "logp", "others", -1),
}


def dose_table(
    runs: Mapping[str, Trajectories], rates: dict[str, float], updates: list[int]
) -> pd.DataFrame:
    """Every statistic of :data:`DOSE` at every learning rate × updates, nats per response, with
    intervals and per-seed signs. A run is read at an update that it probed (the state there is the
    end of a run of that length); updates beyond its end are left out."""
    rows = []
    for run, by_seed in runs.items():
        kinds = list(next(iter(by_seed.values()))["response_type"].unique())
        others = [kind for kind in kinds if kind not in ("chosen", "rejected")]
        last = min(last_step(t) for t in by_seed.values())
        for update in [u for u in updates if u <= last]:
            for name, (statement, column, kind, sign) in DOSE.items():
                wanted = others if kind == "others" else [kind]
                found = estimate(change(by_seed, column, wanted, dict.fromkeys(by_seed, update)))
                rows.append({
                    "run": run, "lr": rates[run], "updates": update, "effect": name,
                    "statement": statement, "predicted": "> 0" if sign > 0 else "< 0",
                    "value": found.value, "low": found.low, "high": found.high,
                    "seeds_with_sign": sum(sign * value > 0 for value in found.seeds),
                    "seeds": len(found.seeds),
                })  # fmt: skip
    return pd.DataFrame(rows)

"""What the faults of the published probing set change, and whether its machine fingerprint is one
of them. Every definition is in docs/statistics.md, section "Confounds of the probing set"."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from learning_dynamics.dynamics import (
    Estimate,
    Trajectories,
    change,
    estimate,
    interval,
    mean_over_kinds,
    resampled_means,
    series,
)

MACHINE = ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic", "reject_gptformat",
           "irr_hum"]  # fmt: skip
NATURAL = ["chosen", "rejected", "irr_train", "irr_test"]
# The text that a type is or rewords: pairs of one source share content besides style.
SOURCE = {"chosen": "y⁺", "chosen_gptsemantic": "y⁺", "chosen_gptformat": "y⁺", "rejected": "y⁻",
          "reject_gptsemantic": "y⁻", "reject_gptformat": "y⁻"}  # fmt: skip
PARTS = ["first token", "body", "end-of-text"]
SPACES = ["as_published", "corrected"]


def switch_table(
    corrected: Mapping[str, Trajectories], published: Mapping[str, Mapping[str, Trajectories]]
) -> pd.DataFrame:
    """Per switch × run × response type: log-prob at the run's start and its change over the run,
    corrected, as published, and their difference (published minus corrected) with its interval.

    Nats per response, train probes. ``paired`` says whether both sets probe the same examples.

    Args:
        corrected: trajectories by role.
        published: the same by switch and role.
    """
    rows = []
    for switch, runs in published.items():
        for role, with_fault in runs.items():
            without = corrected[role]
            for kind in _kinds(without, with_fault):
                row = {"switch": switch, "run": role, "response_type": kind}
                for quantity, of in (("start", _start), ("change", _change)):
                    one, two = of(without, kind), of(with_fault, kind)
                    paired = _examples(without) == _examples(with_fault)
                    difference = _difference(two, one, paired)
                    row |= {
                        "paired": paired,
                        f"{quantity}_corrected": float(np.nanmean(one)),
                        f"{quantity}_published": float(np.nanmean(two)),
                        f"{quantity}_difference": difference.value,
                        f"{quantity}_low": difference.low,
                        f"{quantity}_high": difference.high,
                    }
                rows.append(row)
    return pd.DataFrame(rows)


def influence_table(
    trained: Mapping[str, Mapping[str, Trajectories]], counts_end: bool
) -> pd.DataFrame:
    """I(u → o) and its three parts, nats per response: ``leading_space, update, observed, part,
    value, low, high``; part ``all`` is their sum.

    Args:
        trained: by leading space (:data:`SPACES`) and update type.
        counts_end: whether ``logp`` of these runs includes end-of-text.
    """
    rows = []
    for space, by_update in trained.items():
        for update, runs in by_update.items():
            for kind in _kinds(runs, runs):
                parts = influence(runs, kind, counts_end)
                for part, values in {**parts, "all": sum(parts.values())}.items():
                    found = estimate(values)
                    rows.append((space, update, kind, part, found.value, found.low, found.high))
    columns = ["leading_space", "update", "observed", "part", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def influence(
    runs: Trajectories, kind: str, counts_end: bool, step: int | None = None
) -> dict[str, np.ndarray]:
    """The change of log π(kind) over the run (or until ``step``) by :data:`PARTS`, each (seeds,
    examples), nats."""
    at = None if step is None else dict.fromkeys(runs, step)
    first, end = (change(runs, column, [kind], at) for column in ("logp_first", "logp_end"))
    end = np.where(np.isnan(first), np.nan, np.nan_to_num(end))  # cut responses have none
    body = change(runs, "logp", [kind], at) - first - (end if counts_end else 0.0)
    return dict(zip(PARTS, (first, body, end), strict=True))


def fingerprint_table(
    trained: Mapping[str, Mapping[str, Trajectories]], counts_end: bool
) -> pd.DataFrame:
    """The fingerprint F by leading space and by whether end-of-text is in the sums: mutual
    influence of the machine types, the same updates' influence on natural types, F (their
    difference), each with an interval, F's three parts, ``F_across``: F over pairs of update and
    observed type that do not reword (or are) the same text. Nats per response; ``F_per_token`` is
    that of influences divided by each response's number of tokens, because types differ in length.

    The row ``share`` holds 1 − F(both corrected) / F(both as published), and the verdict.
    """
    excess, rows = {}, []
    for space in SPACES:
        machine, natural = (_mean_influence(trained[space], group, counts_end)
                            for group in (MACHINE, NATURAL))  # fmt: skip
        across = [_mean_influence(trained[space], group, counts_end, across=True)
                  for group in (MACHINE, NATURAL)]  # fmt: skip
        per_token = [_mean_influence(trained[space], group, counts_end, per_token=True)
                     for group in (MACHINE, NATURAL)]  # fmt: skip
        for end in ("as_published", "corrected"):
            used = PARTS if end == "as_published" else PARTS[:2]
            mutual, other = (sum(group[part] for part in used) for group in (machine, natural))
            excess[space, end] = mutual - other
            row = {"leading_space": space, "end_of_text": end}
            for name, values in (("mutual", mutual), ("natural", other), ("F", mutual - other)):
                row |= _with_interval(name, estimate(values))
            for part in used:
                row[f"F {part}"] = float(np.nanmean(machine[part] - natural[part]))
            apart = [sum(group[part] for part in used) for group in across]
            row |= _with_interval("F_across", estimate(apart[0] - apart[1]))
            apart = [sum(group[part] for part in used) for group in per_token]
            row |= _with_interval("F_per_token", estimate(apart[0] - apart[1]))
            rows.append(row)
    share, low, high = _share(excess["corrected", "corrected"],
                              excess["as_published", "as_published"])  # fmt: skip
    verdict = judge(
        estimate(excess["as_published", "as_published"]),
        estimate(excess["corrected", "corrected"]),
        (low, high),
    )
    rows.append({"leading_space": "share", "F": share, "F_low": low, "F_high": high,
                 "verdict": verdict})  # fmt: skip
    return pd.DataFrame(rows)


def course_table(
    trained: Mapping[str, Mapping[str, Trajectories]], counts_end: bool
) -> pd.DataFrame:
    """F as published and corrected (both switches) after every probe evaluation: ``setting, step,
    F, low, high``. It shows whether the verdict, read at the end, depends on the dose."""
    any_run = next(iter(next(iter(trained["corrected"].values())).values()))
    rows = []
    for setting, parts in (("as_published", PARTS), ("corrected", PARTS[:2])):
        for step in sorted(any_run["step"].unique())[1:]:
            machine, natural = (_mean_influence(trained[setting], group, counts_end, int(step))
                                for group in (MACHINE, NATURAL))  # fmt: skip
            found = estimate(sum(machine[part] - natural[part] for part in parts))
            rows.append((setting, int(step), found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["setting", "step", "F", "low", "high"])


def as_markdown(switches: pd.DataFrame, fingerprint: pd.DataFrame) -> str:
    """Both tables for people: the fingerprint, and the three largest effects of each switch."""
    lines = ["# The machine fingerprint", "",
             "| leading space | end-of-text | machine | natural | F [95%] | first token | body | "
             "end-of-text | F across sources | F per token |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    settings = fingerprint[fingerprint["leading_space"] != "share"]
    for row in settings.to_dict("records"):
        parts = ["–" if pd.isna(row[f"F {p}"]) else f"{row[f'F {p}']:+.2f}" for p in PARTS]
        numbers = [f"{row['mutual']:+.2f}", f"{row['natural']:+.2f}", _cell(row, "F", "F"), *parts,
                   _cell(row, "F_across", "F_across"),
                   _cell(row, "F_per_token", "F_per_token", 3)]  # fmt: skip
        lines.append(f"| {row['leading_space']} | {row['end_of_text']} | {' | '.join(numbers)} |")
    share = fingerprint[fingerprint["leading_space"] == "share"].iloc[0]
    lines += ["", f"Share that is tokenisation: {_cell(share, 'F', 'F')}: **{share['verdict']}**."]
    lines += ["", "# What each fault changes (nats, as published minus corrected)", "",
              "| switch | run | response type | at the start | change over the run |",
              "|---|---|---|---|---|"]  # fmt: skip
    for switch, rows in switches.groupby("switch", sort=False):
        largest = rows["change_difference"].abs().nlargest(3).index
        for row in rows.loc[largest].to_dict("records"):
            numbers = [_cell(row, f"{q}_difference", q) for q in ("start", "change")]
            head = [switch, row["run"], row["response_type"]]
            lines.append(f"| {' | '.join([*head, *numbers])} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping, value: str, bounds: str, digits: int = 2) -> str:
    numbers = (row[value], row[f"{bounds}_low"], row[f"{bounds}_high"])
    return "{} [{}, {}]".format(*(f"{number:+.{digits}f}" for number in numbers))


def judge(published: Estimate, corrected: Estimate, share: tuple[float, float]) -> str:
    """The verdict on the fingerprint from F as published, F corrected and the share's interval."""
    if published.side() <= 0:
        return "no fingerprint here"
    if corrected.side() <= 0:
        return "wholly an artefact"
    if share[0] > 0.5:
        return "mostly an artefact"
    return "partly an artefact" if share[0] > 0 else "not an artefact"


def _mean_influence(
    by_update: Mapping[str, Trajectories],
    observed: list[str],
    counts_end: bool,
    step: int | None = None,
    across: bool = False,
    per_token: bool = False,
) -> dict[str, np.ndarray]:
    """Mean over machine updates and other observed types of the influence, by part; ``across``
    leaves out pairs of one source, ``per_token`` divides by the number of tokens."""

    def one(runs: Trajectories, kind: str) -> dict[str, np.ndarray]:
        parts = influence(runs, kind, counts_end, step)
        if not per_token:
            return parts
        tokens = np.array([series(table, "n_tokens", kind)[1][0] for table in runs.values()])
        return {part: values / tokens for part, values in parts.items()}

    found = [
        one(runs, kind)
        for update, runs in by_update.items()
        if update in MACHINE
        for kind in observed
        if kind != update and kind in _kinds(runs, runs)
        if not across or SOURCE.get(update) is None or SOURCE.get(update) != SOURCE.get(kind)
    ]
    return {part: mean_over_kinds(np.array([each[part] for each in found])) for part in PARTS}


def _share(corrected: np.ndarray, published: np.ndarray) -> tuple[float, float, float]:
    known = ~(np.isnan(corrected) | np.isnan(published)).any(0)
    corrected, published = corrected[:, known], published[:, known]
    draws = resampled_means([corrected, published])
    value = 1 - corrected.mean() / published.mean()
    return (float(value), *interval(1 - draws[:, 0] / draws[:, 1]))


def _with_interval(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _kinds(one: Trajectories, two: Trajectories) -> list[str]:
    """Response types that both have among the train probes, in the first one's order."""
    tables = [next(iter(runs.values())) for runs in (one, two)]
    sets = [t.loc[t["split"] == "train", "response_type"].unique() for t in tables]
    return [kind for kind in sets[0] if kind in set(sets[1])]


def _examples(runs: Trajectories) -> list[str]:
    table = next(iter(runs.values()))
    return sorted(table.loc[table["split"] == "train", "example_id"].unique())


def _start(runs: Trajectories, kind: str) -> np.ndarray:
    return np.array([series(table, "logp", kind)[1][0] for table in runs.values()])


def _change(runs: Trajectories, kind: str) -> np.ndarray:
    return change(runs, "logp", [kind])


def _difference(one: np.ndarray, two: np.ndarray, paired: bool) -> Estimate:
    """Mean of ``one`` minus mean of ``two``, each (seeds, examples)."""
    if paired:
        return estimate(one - two)
    one, two = (values[:, ~np.isnan(values).any(0)] for values in (one, two))
    draws = resampled_means([one, two], paired=False)
    by_seed = tuple(one.mean(1) - two.mean(1))
    return Estimate(float(one.mean() - two.mean()), *interval(draws[:, 0] - draws[:, 1]), by_seed)

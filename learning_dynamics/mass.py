"""The mass that one update takes from y⁻, accounted for: where it lands, and what Lemma 1 says.

The steps are those of :mod:`one_step`. At every position of y⁻ the vocabulary is divided into the
label; the token that was greedy before (besides the label: y* of section 3.3); the token of y⁺,
where it is predicted in the same context; and the rest. Definitions: docs/statistics.md, section
"Where the mass lands".
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from learning_dynamics import one_step, scoring
from learning_dynamics.landing import COLUMNS, PARTS
from learning_dynamics.rows import Rows

NEWTON = 60  # iterations at most; single updates take five to ten
CLOSE = 1e-9  # nats between the label's log-prob and what it is calibrated to


def measure(
    engine: scoring.Engine, rows: Rows, names: list[str], batches: int, size: int, seed: int
) -> pd.DataFrame:
    """Table of :data:`landing.COLUMNS`, one row per kind × batch × position of y⁻.

    Args:
        engine: the model; its weights are as they were afterwards.
        rows: pairs, y⁺ first.
        names: their ids.
        batches, size, seed: how many batches of how many pairs, and which.

    Raises:
        InputError: as :func:`one_step.steps`.
    """
    tables = []
    for step in one_step.steps(engine, rows, batches, size, seed):
        aligned, chosen = alignment(rows, step)
        facts = account(step.before, step.after, step.label, torch.as_tensor(chosen))
        tables.append(
            pd.DataFrame(
                {
                    "kind": step.kind,
                    "batch": step.batch,
                    "example_id": [names[step.rows[i]] for i in step.owner],
                    "position": step.position,
                    "aligned": aligned,
                    **{name: values.cpu().numpy() for name, values in facts.items()},
                }
            )
        )
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def alignment(rows: Rows, step: one_step.Step) -> tuple[np.ndarray, np.ndarray]:
    """How y⁺ stands to y⁻ at each position, (N,), and y⁺'s token where it differs there, else −1.

    ``shared``: y⁺ has the same tokens up to here, this one included. ``fork``: the same tokens
    before, another one here; the one place of a pair where y⁺ and y⁻ compete in one softmax.
    ``apart``: the contexts differ (or y⁺ has no token here), so no token of y⁺ is aligned.
    """
    words, tokens = [], []
    for owner, position in zip(step.owner, step.position, strict=True):
        chosen, rejected = rows.trees[step.rows[owner]].responses
        same = chosen[:position] == rejected[:position] and position < len(chosen)
        fork = same and chosen[position] != rejected[position]
        words.append("fork" if fork else "shared" if same else "apart")
        tokens.append(chosen[position] if fork else -1)
    return np.array(words, dtype=object), np.array(tokens, dtype=np.int64)


def account(before: Tensor, after: Tensor, label: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """What :data:`landing.COLUMNS` says of each position, (N,) each, fp64.

    Args:
        before, after: log π over the vocabulary, (N, V), fp64.
        label: the token of y⁻, (N,).
        chosen: the token of y⁺ in the same context, another one than the label; −1: none. (N,)
    """
    chosen = chosen.to(label.device)
    others = before.scatter(-1, label[:, None], -torch.inf)
    greedy = others.argmax(-1)
    delta = after.exp() - before.exp()
    rate = calibrated_rate(before, label, _at(after, label))
    lemma_logp = lemma1(before, label, rate)
    lemma = lemma_logp.exp() - before.exp()
    out = {
        "p_label": _at(before, label).exp(),
        "p_greedy": _at(before, greedy).exp(),
        "label_greedy": _at(before, label) >= _at(before, greedy),
        **{f"dp_{part}": value for part, value in _parts(delta, label, greedy, chosen).items()},
        "rate": rate,
    }
    for part, value in _parts(lemma, label, greedy, chosen).items():
        if part != "label":  # calibrated to be as measured
            out[f"lemma_{part}"] = value
    # Changes over the other tokens: how far they are from a constant, and from what is predicted.
    # The constants are what the label's own change leaves: an even share, or equal growth.
    growth = (_without(after, label).logsumexp(-1) - others.logsumexp(-1))[:, None]
    logs = after - before
    out["total_p"] = _squares(delta, _even(delta, label), label)
    out["left_p"] = _squares(delta, lemma, label)
    out["left_p_proportional"] = _squares(delta, before.exp() * growth.expm1(), label)
    out["total_logp"] = _squares(logs, growth, label)
    out["left_logp"] = _squares(logs, lemma_logp - before, label)
    return out


def lemma1(before: Tensor, label: Tensor, rate: Tensor) -> Tensor:
    """log π after the step of Lemma 1 (App. E), (N, V): z ← z − η'(π − e_label), from the softmax
    before alone. The lemma's ratios are those of :func:`theory.lemma1_ratio`, here in O(V).

    Args:
        before: log π, (N, V).
        label: (N,).
        rate: η', (N,); negative: the label is pushed down.
    """
    return (before - rate[:, None] * _residual(before, label)).log_softmax(-1)


def calibrated_rate(before: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """The rate η' with which Lemma 1's step gives the label the log-prob ``target``, (N,); NaN
    where fp64 does not hold it (a label of probability 1).

    log π'(label) is concave in η' and rises (its slope is E_π'[r] − r_label for r = π − e_label,
    its curvature −Var_π'[r]), so Newton's method, from wherever, converges from the left.
    """
    residual = _residual(before, label)
    rate = torch.zeros_like(target)
    for _ in range(NEWTON):
        logp = (before - rate[:, None] * residual).log_softmax(-1)
        gap = target - _at(logp, label)
        if not (gap.abs() > CLOSE / 10).any():
            break
        slope = (logp.exp() * residual).sum(-1) - _at(residual, label)
        rate = torch.where(gap == 0, rate, rate + gap / slope)
    close = (_at(lemma1(before, label, rate), label) - target).abs() <= CLOSE
    return torch.where(close, rate, torch.nan)


def _residual(logp: Tensor, label: Tensor) -> Tensor:
    """π − e_label, (N, V); at the label minus the sum of the others, which does not cancel."""
    others = logp.exp().scatter(-1, label[:, None], 0.0)
    return others.scatter(-1, label[:, None], -others.sum(-1, keepdim=True))


def _parts(delta: Tensor, label: Tensor, greedy: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Changes of mass (N, V) by part, (N,) each. Every part is its own sum: the rest is summed over
    its tokens, so that a balance of zero says that nothing was lost."""
    none, zero = chosen < 0, torch.zeros_like(delta[:, 0])
    known = torch.where(none, label, chosen)
    both = known == greedy
    rest = _without(_without(_without(delta, label, 0.0), greedy, 0.0), known, 0.0)
    parts = {
        "label": _at(delta, label),
        "greedy": torch.where(both, zero, _at(delta, greedy)),
        "chosen": torch.where(none | both, zero, _at(delta, known)),
        "both": torch.where(both, _at(delta, greedy), zero),
        "rest": rest.sum(-1),
    }
    return {part: parts[part] for part in PARTS}


def _at(values: Tensor, token: Tensor) -> Tensor:
    return values.gather(-1, token[:, None])[:, 0]


def _without(values: Tensor, token: Tensor, filled: float = -torch.inf) -> Tensor:
    return values.scatter(-1, token[:, None], filled)


def _even(values: Tensor, label: Tensor) -> Tensor:
    """The mean over the tokens besides the label, (N, 1)."""
    return (_without(values, label, 0.0).sum(-1) / (values.shape[-1] - 1))[:, None]


def _squares(values: Tensor, predicted: Tensor, label: Tensor) -> Tensor:
    """Σ (value − prediction)² over the tokens besides the label, (N,)."""
    return (_without(values - predicted, label, 0.0) ** 2).sum(-1)

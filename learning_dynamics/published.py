"""The reference implementation's published result files as trajectories.

``prob_train_metrics.json`` holds one JSON object per probe evaluation: means over 500 probes, with
bare NaN, no step, and five orders of keys. ``logp_npy_all_chosen.npy``, where present, holds the
same per probe. Sums are in nats, as in every trajectory.

Until 2025-05-08 the reference overwrote argmax, complement mass, p_e and energy once per response
type: those files describe the positions of the last type, random_nonhum, not those of y⁺ (its
issue 2). Here these columns stand on the rows of the type that they belong to.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from learning_dynamics import trajectory
from learning_dynamics.errors import InputError
from learning_dynamics.known import METRICS, known_runs

TYPES = ["chosen", "chosen_initial", "chosen_gptsemantic", "chosen_gptformat", "rejected",
         "reject_gptsemantic", "reject_gptformat", "irr_train", "irr_test", "irr_hum",
         "random_permute", "random_nonhum"]  # fmt: skip
PROBES = 500
SCHEMA = pa.schema(
    [
        ("evaluation", pa.int32()),  # from 0 within the attempt; known even where the step is not
        ("attempt", pa.int32()),  # number of the kept attempt in the file, from 1
        *trajectory.SCHEMA,
        ("n_examples", pa.int32()),  # 1, or 500 where the row is a mean over the probes
        ("A_o", pa.float64()),  # as published: sqrt(V (mean ‖π‖₂)² + V − 2)
        ("conversation", pa.string()),  # names the example's; null: not known
    ]
)
LOGP, A_O = "logps_eval_prob_train/{}", "{}_A_o"
ALONG_KEYS = {"argmax_prob_logits": "logp_argmax", "except_argmax_prob_logits": "logp_complement",
              "p_e": "residual_norm", "energy": "energy"}  # fmt: skip
ALONG = {"chosen": "argmax along y⁺", "random_nonhum": "argmax along y_rnd"}
DATA_ROWS = {"train": 5000, "train_sft_extend": 10000, "probe": PROBES}
# Mean 1 − p(label) of the untuned models is 0.93-0.97 along shuffled words and 0.64-0.69 along y⁺.
ENERGY_BETWEEN = 0.85
LOG = logging.getLogger(__name__)


def _key_orders() -> list[list[str]]:
    """Every known order of keys; the metric axis of the npy has the same."""
    argmax, complement, p_e, energy = ALONG_KEYS
    shapes = [  # the keys about chosen, and those of each other type
        ([LOGP, argmax], [LOGP]),
        ([LOGP, argmax, complement, "A_o", p_e, energy], [LOGP]),
        ([LOGP, argmax, complement, A_O, p_e, energy], [LOGP, A_O]),
        ([A_O, LOGP, argmax, complement, p_e, energy], [A_O]),
        ([A_O, LOGP, argmax, complement, p_e, energy], [A_O, LOGP]),
    ]
    return [
        [key.format(TYPES[0]) for key in chosen]
        + [key.format(kind) for kind in TYPES[1:] for key in other]
        for chosen, other in shapes
    ]


KEY_ORDERS = _key_orders()


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The evaluations of a metrics file, restarts included; each a mapping in the file's key order.

    Raises:
        InputError: naming file, line, field and value for a missing or empty file, a line that is
            not a JSON object (a truncated one), keys that no version of the reference wrote, or a
            value that is neither a number nor NaN nor -Infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the reference's metrics (JSON lines)")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8 text") from None
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            row = json.loads(line, parse_int=float)
        except (ValueError, RecursionError) as error:
            reason = f"{getattr(error, 'msg', 'too deep')} at column {getattr(error, 'colno', 1)}"
            raise InputError(f"{place}: not JSON ({reason}); is the file truncated?") from None
        if not isinstance(row, dict):
            raise InputError(f"{place}: {str(row)[:40]!r}; expected a JSON object")
        _check_keys(place, list(row), [list(rows[0])] if rows else KEY_ORDERS)
        for name, value in row.items():
            if not isinstance(value, float) or value == np.inf:
                raise InputError(
                    f"{place}: field {name!r} is {value!r}; expected a number, NaN or -Infinity"
                )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: empty; expected one JSON object per probe evaluation")
    return rows


def _check_keys(place: str, found: list[str], orders: list[list[str]]) -> None:
    if found in orders:
        return
    nearest = min(orders, key=lambda order: len(set(order) ^ set(found)))
    names = ", ".join(nearest)
    for name in found:
        if name not in nearest:
            raise InputError(f"{place}: unknown field {name!r}; expected {names}")
    for name in nearest:
        if name not in found:
            raise InputError(f"{place}: field {name!r} is missing; expected {names}")
    # The order is what tells a corrected argmax from one along another response.
    raise InputError(f"{place}: fields in the order {', '.join(found)}; expected {names}")


def read_npy(path: str | Path, keys: list[str]) -> np.ndarray:
    """Per-probe values, shape (evaluations, len(keys), 500), float64; metrics in the order of the
    JSON's keys. NaN and −inf occur.

    Raises:
        InputError: for pickled objects (never loaded), a truncated file, another type or shape.
    """
    expected = f"expected float64 of shape (evaluations, {len(keys)}, {PROBES})"
    try:
        # A memory map cannot hold objects, and a truncated file fails before anything is allocated.
        values = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # a broken header can also raise SyntaxError, TypeError and others
        raise InputError(f"{path}: not a whole npy file of numbers ({error}); {expected}") from None
    if values.dtype.kind != "f" or values.ndim != 3 or values.shape[1:] != (len(keys), PROBES):
        raise InputError(f"{path}: holds {values.dtype} of shape {values.shape}; {expected}")
    return np.array(values, dtype=np.float64)


def attempts(values: np.ndarray) -> list[slice]:
    """The attempts in a file that re-runs appended to, as slices over evaluations (the first axis
    of ``values``, shape (evaluations, metrics)). The untuned model scores the same each time, so an
    evaluation within 1e-3 of the first in every finite value starts a new attempt."""
    both = np.isfinite(values) & np.isfinite(values[0])
    apart = np.abs(np.subtract(values, values[0], where=both, out=np.zeros_like(values)))
    same = (apart < 1e-3).all(axis=1) & both.any(axis=1)
    same[0] = True
    starts = np.flatnonzero(same).tolist()
    return [slice(*ends) for ends in zip(starts, [*starts[1:], len(values)], strict=True)]


def import_run(
    folder: str | Path, examples_per_evaluation: int | None = None, batch_size: int | None = None
) -> pd.DataFrame:
    """A published run as a trajectory: the columns of ``SCHEMA``, unknown ones null.

    One row per evaluation × probe × response type where the npy is there and covers the kept
    attempt, else one row of means per evaluation × response type with a null ``example_id``. The
    longest attempt is kept. Arguments override the table of known runs.

    Raises:
        InputError: for a bad file, an npy whose means contradict the JSON, an A_o that V logits
            cannot give, or evaluations that do not fall on whole updates.
    """
    folder = Path(folder)
    path = folder / METRICS
    rows = read_metrics(path)
    keys = list(rows[0])
    known = known_runs().get(folder.resolve().name, {})
    given = {"examples_per_evaluation": examples_per_evaluation, "batch_size": batch_size}
    known = known | {name: value for name, value in given.items() if value is not None}
    every, batch_size = (known.get(name) for name in given)
    counts = [count for count in (every, batch_size) if count is not None]
    if min(counts, default=1) < 1 or (len(counts) == 2 and every % batch_size):
        raise InputError(
            f"{path}: {every} examples per evaluation in batches of {batch_size}; expected a "
            "positive multiple: the reference probes between updates"
        )
    means = np.array([list(row.values()) for row in rows])
    pieces = attempts(means)
    number = int(np.argmax([piece.stop - piece.start for piece in pieces]))  # the first of equals
    kept = means[pieces[number]]
    if len(pieces) > 1:
        LOG.warning("%s: attempt %d of %d kept, %d of %d lines set aside", path, number + 1,
                    len(pieces), len(means) - len(kept), len(means))  # fmt: skip
    # The versions that write A_o first are those that write the argmax along y⁺.
    first = "chosen" if keys[0] == A_O.format("chosen") else "random_nonhum"
    along = known.get("argmax_along") or first
    _check_label(path, dict(zip(keys, kept.T, strict=True)), along)
    table = _long(_per_probe(folder / "logp_npy_all_chosen.npy", kept, keys), keys, along)
    if known.get("logits") and "A_o" in table:
        norm = _prob_norm(path, table["A_o"], known["logits"])
        table["prob_norm"] = norm.where(table["n_examples"] == 1)  # a mean of roots has no inverse
    table["examples"] = table["evaluation"].astype("Int64") * (every or pd.NA)
    table["step"] = table["examples"] // (batch_size or pd.NA)
    table["epoch"] = table["examples"].astype("Float64") / DATA_ROWS.get(known.get("data"), pd.NA)
    table["attempt"] = number + 1
    table["conversation"] = None
    return table.reindex(columns=SCHEMA.names).astype({"epoch": "float64"})


def _check_label(path: Path, means: dict[str, np.ndarray], along: str) -> None:
    """Warn where the numbers contradict the response that the argmax is said to belong to."""
    energy = means.get("energy", [np.nan])[0]
    if energy > ENERGY_BETWEEN if along == "chosen" else energy < ENERGY_BETWEEN:
        LOG.warning("%s: energy starts at %.2f: argmax may not be along %s", path, energy, along)
    if along == "chosen" and (means["argmax_prob_logits"] < means[LOGP.format("chosen")]).any():
        LOG.warning("%s: argmax is below the log-prob of chosen: it cannot be along chosen", path)


def _per_probe(path: Path, means: np.ndarray, keys: list[str]) -> np.ndarray:
    """Values of shape (evaluations, metrics, 500) from the npy, or else (evaluations, metrics, 1)
    from ``means``."""
    if not path.is_file():
        return means[:, :, None]
    values = read_npy(path, keys)[: len(means)]
    if len(values) < len(means):
        LOG.warning("%s: %d of %d evaluations: means imported", path, len(values), len(means))
        return means[:, :, None]
    found = values.mean(axis=2)
    finite = np.isfinite(found) | np.isfinite(means)
    wrong = np.argwhere(finite & ~np.isclose(found, means, rtol=1e-6, atol=1e-9))
    if len(wrong):
        evaluation, key = wrong[0]
        raise InputError(
            f"{path}: evaluation {evaluation}: {keys[key]} has mean {found[evaluation, key]:.6g}; "
            f"expected {means[evaluation, key]:.6g} as in the JSON file of the same run"
        )
    return values


def _long(values: np.ndarray, keys: list[str], along: str) -> pd.DataFrame:
    """Rows ordered by evaluation, probe and type, from (evaluations, metrics, probes)."""
    evaluations, _, probes = values.shape
    columns: dict[str, np.ndarray] = {}
    for index, key in enumerate(keys):
        if key in ALONG_KEYS:
            name, kind = ALONG_KEYS[key], along
        elif key == "A_o":  # overwritten once per type, like the argmax
            name, kind = "A_o", "random_nonhum"
        elif key.endswith("_A_o"):
            name, kind = "A_o", key.removesuffix("_A_o")
        else:
            name, kind = "logp", key.split("/")[1]
        empty = np.full((evaluations, probes, len(TYPES)), np.nan)
        columns.setdefault(name, empty)[:, :, TYPES.index(kind)] = values[:, index]
    ids = [f"row-{row:05d}" for row in range(probes)] if probes > 1 else [None]
    head = {
        "evaluation": np.repeat(np.arange(evaluations), probes * len(TYPES)),
        "split": "train",
        "example_id": np.tile(np.repeat(np.array(ids, dtype=object), len(TYPES)), evaluations),
        "response_type": np.tile(TYPES, evaluations * probes),
        "n_examples": PROBES // probes,
    }
    return pd.DataFrame(head | {name: column.ravel() for name, column in columns.items()})


def _prob_norm(path: Path, a_o: pd.Series, logits: int) -> pd.Series:
    """The mean ‖π‖₂ over positions from A_o = sqrt(V (mean ‖π‖₂)² + V − 2)."""
    squared = (a_o**2 - logits + 2) / logits
    outside = (squared < 1 / logits - 1e-3) | (squared > 1 + 1e-3)
    if outside.any():
        raise InputError(
            f"{path}: A_o is {a_o[outside].iloc[0]:.6g}; expected {(logits - 1) ** 0.5:.6g} to "
            f"{(2 * logits - 2) ** 0.5:.6g}, which {logits} logits allow: is it another model's "
            "run under the name of a published one?"
        )
    return squared.clip(0, 1) ** 0.5


def summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """First, best (highest), worst and last mean over the probes, one row per run × response type ×
    quantity, in nats; ``best_at`` and ``worst_at`` count evaluations from 0. The quantity says
    along which response an argmax was taken."""
    rows = []
    for run, table in tables.items():
        grouped = table.groupby(["response_type", "evaluation"], sort=False)
        means = grouped[["logp", "logp_argmax"]].mean()
        for kind in means.index.unique("response_type"):
            for quantity, column in (("logp", "logp"), (ALONG.get(kind), "logp_argmax")):
                values = means.loc[kind, column]
                if values.isna().all():
                    continue
                rows.append(
                    {
                        "run": run, "response_type": kind, "quantity": quantity,
                        "evaluations": len(values), "first": values.iloc[0],
                        "best": values.max(), "best_at": values.idxmax(),
                        "worst": values.min(), "worst_at": values.idxmin(),
                        "last": values.iloc[-1],
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)

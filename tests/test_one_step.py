"""Single steps: weights restored, mass conserved, lengths as defined."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from learning_dynamics import one_step
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring import Engine
from learning_dynamics.tokens import Codec

BATCHES, SIZE = 4, 3
DPO = {"algorithm": "dpo", "labels": "given"}


@pytest.fixture(scope="module")
def measured(tiny, toy_pairs):
    """(model before, model after, rows, names, table) of one measurement."""
    model = Engine(deepcopy(tiny[0]))
    rows = training_rows(toy_pairs, Codec(tiny[1], 256, 128), DPO, 0, None)
    names = list(toy_pairs.loc[toy_pairs["split"] == "train", "example_id"])
    table = one_step.measure(model, rows, names, BATCHES, SIZE, seed=0)
    return Engine(tiny[0]), model, rows, names, table


def test_weights_are_restored_exactly(measured):
    """The weights before, bit for bit; no gradient is left."""
    before, after = measured[:2]
    for one, two in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, two) and two.grad is None


def test_every_rejected_position_is_measured(measured):
    """Per kind the positions of y⁻ of every row, counted from the tokens."""
    _, _, rows, names, table = measured
    lengths = {name: len(tree.responses[1]) for name, tree in zip(names, rows.trees, strict=True)}
    assert list(table.columns) == one_step.COLUMNS
    for _, group in table.groupby("kind"):
        assert group.groupby("example_id").size().to_dict() == lengths
        assert group.groupby("batch")["example_id"].nunique().tolist() == [SIZE] * BATCHES
    before = [
        table.loc[table["kind"] == kind, ["example_id", "position", "p_label", "p_top_other"]]
        for kind in one_step.KINDS
    ]
    assert all((part.to_numpy() == before[0].to_numpy()).all() for part in before)


def test_mass_is_conserved(measured):
    """Probabilities sum to 1 before and after, so the three changes of mass sum to 0."""
    table = measured[-1]
    total = table["dp_label"] + table["dp_top_other"] + table["dp_rest"]
    assert np.abs(total).max() < 1e-12
    after = table["p_label"] * np.exp(table["dlogp_label"])
    assert np.abs(after - table["p_label"] - table["dp_label"]).max() < 1e-12


def test_the_dpo_step_lowers_rejected_by_about_a_nat(measured):
    """The definition of the length: one nat per response to first order, in the median batch."""
    table = measured[-1]
    dpo = table[table["kind"] == "dpo"]
    by_batch = dpo.groupby("batch")["dlogp_label"].sum() / SIZE
    assert -2 < by_batch.median() < -0.5


def test_all_steps_have_one_length(measured):
    """Unit directions before scaling; and DPO's first-order effect is its finite difference."""
    model, _, rows, *_ = measured
    flips = np.array([True, False, False])
    for algorithm in ("dpo", "sft"):
        grads = one_step.gradient(model, rows, [0, 1, 2], algorithm, flips)
        step = one_step._unit_descent(grads)
        assert sum((s * s).sum() for s in step).item() == pytest.approx(1, rel=1e-5)
    slope = one_step.rejected_slope(model, rows, [0, 1, 2], step)
    moved = []
    for length in (1e-3, -1e-3):
        copy = deepcopy(model)
        one_step.move(copy, step, length)
        logp, label, *_ = one_step.rejected_logits(copy, rows, [0, 1, 2])
        moved.append(logp.gather(1, label[:, None]).sum().item() / 3)
    assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(slope, rel=2e-2)


def test_flips_swap_the_labels(measured):
    """Flipping every pair turns DPO's gradient at the start around, and SFT's is that of y⁻."""
    model, _, rows, *_ = measured
    plain, flipped = (
        one_step.gradient(model, rows, [0, 1], "dpo", np.full(2, flip)) for flip in (False, True)
    )
    for one, two in zip(plain, flipped, strict=True):
        torch.testing.assert_close(one, -two, rtol=1e-4, atol=1e-6)

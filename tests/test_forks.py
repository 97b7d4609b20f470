"""Branches of one model: what a run leaves out, random steps, the parts of a change, the figure."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from learning_dynamics import finetune as loop
from learning_dynamics import forks
from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError
from learning_dynamics.figures import forks as figure
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.reference import reference_logps
from learning_dynamics.rows import training_rows
from learning_dynamics.runs import BRANCHES
from learning_dynamics.scoring import Engine
from learning_dynamics.study import Study, load_config
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import Trained
from tests.conftest import COMPUTE, ROOT, STUDY, run_spec

KINDS = ["chosen", "rejected", "irr_train"]


@pytest.fixture(scope="module")
def step(tiny, toy_pairs):
    """Function: what one plain gradient update changes in the tiny model's weights, by name."""
    model, tokenizer = tiny
    codec = Codec(tokenizer, 256, 128)
    reference = reference_logps(Engine(deepcopy(model)), toy_pairs, codec, COMPUTE)

    def change(algorithm="dpo", draw=(0, 1), **changes):
        spec = run_spec(algorithm, optimizer="sgd", lr=1.0, clip=1e9, **changes)
        used = deepcopy(model)
        trained = Trained(used, tokenizer, ROOT)
        learner = loop.Learner.of(trained, spec, COMPUTE, accelerator_of(COMPUTE))
        rows = training_rows(toy_pairs, codec, spec, 0, reference, None)
        loop.update(learner, rows, [0, 1, 2, 3], draw)
        before = dict(model.named_parameters())
        return {name: p.detach() - before[name].detach() for name, p in used.named_parameters()}

    return change


def whole(change):
    """All of a change as one vector, float64."""
    return torch.cat([value.double().flatten() for value in change.values()])


def distance(a, b):
    """Relative to the second."""
    return float((whole(a) - whole(b)).norm() / whole(b).norm())


def test_without_its_negative_gradient_the_first_step_of_dpo_is_one_of_sft(step):
    """At margin 0, c₊ = β/2 at every row: β/2 times the step of SFT on the same y⁺."""
    expected = {name: 0.05 * value for name, value in step("sft").items()}
    assert distance(step(negative="none", beta=0.1), expected) < 1e-4


def test_the_parts_of_y_minus_add_up_to_its_step(step):
    """Gradients are linear: tokens in the valley, and all others as the rest."""
    both, none = step(), step(negative="none")
    valley = step(negative="valley", valley=1e-3)
    assert distance(step(negative="valley", valley=1.0), both) < 1e-5
    assert distance(step(negative="valley", valley=1e-30), none) < 1e-5
    assert distance(valley, none) > 1e-3 and distance(valley, both) > 1e-3


def test_a_random_step_is_as_long_in_every_tensor_and_goes_elsewhere(step):
    """And is the same again for the same seed and update alone."""
    real, random = step(), step(direction="random")
    for name, value in real.items():
        assert float(random[name].norm()) == pytest.approx(float(value.norm()), rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(whole(real), whole(random), dim=0)
    assert abs(float(cosine)) < 0.05
    assert distance(step(direction="random"), random) == 0
    assert distance(step(direction="random", draw=(0, 2)), random) > 1


@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if len(a.responses) == 2])
def test_every_loss_of_pairs_can_leave_out_y_minus(name):
    """Or says in one line why not: the study takes it, or names the field."""
    config = load_config([ROOT / "config.yaml"])
    config["runs"]["mine"] = {"algorithm": name, "init": "sft", "epochs": 1, "lr": 1e-4,
                              "negative": "none"}  # fmt: skip
    if ALGORITHMS[name].logits:
        with pytest.raises(InputError, match=r"runs\.mine\.negative"):
            Study(config)
    else:
        assert Study(config).runs["mine"]["negative"] == "none"


def test_a_loss_of_one_response_has_no_y_minus():
    """It is refused the setting."""
    config = load_config([ROOT / "config.yaml"])
    config["runs"]["mine"] = {"algorithm": "sft", "init": "base", "epochs": 1, "lr": 1e-4,
                              "negative": "none"}  # fmt: skip
    with pytest.raises(InputError, match=r"runs\.mine\.negative: 'none': sft does not read it"):
        Study(config)


def test_branches_of_the_study():
    """Every loss × start × branch is a run that differs from its siblings in that one thing."""
    entries = STUDY.forks()
    spec = STUDY.config["figures"]["forks"]
    assert len(entries) == len(spec["from"]) * len(spec["losses"]) * len(BRANCHES)
    for entry in entries:
        run = STUDY.runs[entry["run"]]
        base = STUDY.runs[entry["run"].removesuffix(entry["branch"]) + "loss"]
        different = {key for key in run if run[key] != base.get(key)}
        assert different == set(BRANCHES[entry["branch"]]) | ({"valley"} & set(run))
        assert run["init"] == entry["from"]


def trajectory(slopes, seed=0):
    """Two examples whose log-probs move by a slope per update and type."""
    rows = []
    for number in range(2):
        for kind in KINDS:
            for when in (0, 10, 20):
                moved = when * slopes.get(kind, 0.0) * (1 + 0.01 * seed) + number
                rows.append({"step": when, "split": "train", "example_id": f"{number}",
                             "response_type": kind, "n_tokens": 5, "logp": moved - 20,
                             "logp_top_other": -9 - moved, "logp_argmax": -8 - moved})  # fmt: skip
    return pd.DataFrame(rows)


def table():
    """All branches of one loss from one start, two seeds, with known slopes of y⁻."""
    slopes = {"loss": -1.0, "without": 0.25, "valley": -0.5, "coin": 0.125, "random": 0.0}
    runs = {("dpo", "sft", branch, seed): trajectory({"rejected": slope, "chosen": 0.5}, seed)
            for branch, slope in slopes.items() for seed in (0, 1)}  # fmt: skip
    return forks.table_of(runs)


def test_parts_add_up_and_are_what_was_planted():
    """After 20 updates, mean over seeds 1.005 of the slopes; y⁺ moves alike in all branches."""
    parts = forks.decomposition(table()).set_index(["quantity", "part"])["value"]
    rejected = parts["rejected"]
    assert rejected["all"] == pytest.approx(-20 * 1.005)
    assert rejected["y⁺"] == pytest.approx(5 * 1.005)
    assert rejected["y⁻ in the valley"] == pytest.approx(-15 * 1.005)
    assert rejected["y⁻ elsewhere"] == pytest.approx(-10 * 1.005)
    assert rejected["labels"] == pytest.approx(-22.5 * 1.005)
    for quantity in parts.index.unique("quantity"):
        assert sum(parts[quantity][c] for c in forks.CAUSES) == pytest.approx(
            parts[quantity]["all"]
        )
    assert parts["best other at y⁻"]["all"] == pytest.approx(20 * 1.005)
    assert parts["chosen"]["labels"] == pytest.approx(0)


def test_figure_draws_every_quantity(tmp_path):
    """A row per loss and start; bars for all types and what is beside them."""
    both = table()
    drawn = figure.draw({"study": "t", "dataset": "d", "model": "m", "seeds": [0, 1]}, both,
                        forks.decomposition(both))  # fmt: skip
    panel = drawn.axes[0]
    assert len(panel.get_yticklabels()) == len(KINDS) + len(forks.BESIDE)
    assert panel.get_title(loc="left") == "dpo from sft, after 20 updates"
    lengths = np.array([bar.get_width() for bar in panel.patches])
    assert np.isclose(np.abs(lengths), 15 * 1.005).any()

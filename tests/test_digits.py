"""The digits: images, networks, training, the kernel and Proposition 1 against brute force, tables,
figures."""

import copy
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from learning_dynamics.digits import images, kernel, measure, networks, summary, training
from learning_dynamics.digits.images import Digits
from learning_dynamics.errors import InputError
from learning_dynamics.figures import entk_mnist, mnist, style
from learning_dynamics.files import write_table
from learning_dynamics.study import Study, load_config

ROOT = Path(__file__).resolve().parent.parent
SPEC = {
    "source": "sklearn", "hub": None, "revision": None, "train_rows": 120, "test_rows": 90,
    "batch_size": 32, "epochs": 2, "lr": 0.01, "lr_end": 1e-6, "momentum": 0.9,
    "weight_decay": 5e-4, "one_step": {"images": 1, "lr": 0.05},
    "entk": {"epochs": 5, "images": 1, "dense": 2, "every": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return images.draw(SPEC)


@pytest.fixture(scope="module")
def data(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "images.parquet"
    write_table(path, table)
    return images.load(path)


@pytest.fixture(params=["mlp", "lenet"])
def case(request, data):
    """(name, network, the splits as it reads them)."""
    fitting = {split: networks.fitting(request.param, part) for split, part in data.items()}
    side = fitting["train"].images.shape[-1]
    return request.param, networks.build(request.param, side, 3), fitting


def test_embedded_images(table):
    """Two disjoint fixed draws; every row is the source's image of that number, in [0, 1]."""
    from sklearn.datasets import load_digits

    source = load_digits()
    assert table["split"].value_counts().to_dict() == {"train": 120, "test": 90}
    assert table["image_id"].is_unique
    for row in table.itertuples():
        assert row.label == source.target[row.image_id]
        np.testing.assert_allclose(np.reshape(row.pixels, (8, 8)) * 16, source.images[row.image_id])
    pd.testing.assert_frame_equal(table, images.draw(SPEC))
    longer = images.draw({**SPEC, "train_rows": 130})
    assert list(longer["image_id"][:120]) == list(table["image_id"][:120])
    assert set(table["label"]) == set(range(10))


def hub_rows(folder, **columns):
    """Write the splits of a hub data set of images."""
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    for split, (pixels, labels) in columns.items():
        rows = Dataset.from_dict({"image": list(pixels), "label": list(labels)}, features=features)
        rows.to_parquet(folder / split / f"{split}-00000-of-00001.parquet")
    return {**SPEC, "source": "hub", "hub": str(folder), "revision": "0" * 40}


def test_images_of_the_hub(hub_folder, tmp_path):
    """Each split from the hub's split of its name, a random draw, scaled by 255."""
    rng = np.random.default_rng(0)
    source = {s: (rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), rng.integers(0, 10, n))
              for s, n in (("train", 30), ("test", 12))}  # fmt: skip
    spec = hub_rows(hub_folder, **source) | {"train_rows": 20, "test_rows": 12}
    write_table(tmp_path / "images.parquet", images.draw(spec))
    for split, part in images.load(tmp_path / "images.parquet").items():
        pixels, labels = source[split]
        ids = part.ids.numpy()
        assert len(set(ids)) == len(ids) == spec[f"{split}_rows"]
        assert list(ids) != sorted(ids)
        np.testing.assert_array_equal(part.labels.numpy(), labels[ids])
        np.testing.assert_allclose(part.images[:, 0].numpy() * 255, pixels[ids], atol=1e-4)
    with pytest.raises(InputError, match=r"digits\.train_rows: 31: expected at most 30"):
        images.draw({**spec, "train_rows": 31})
    with pytest.raises(InputError, match="split train cannot be loaded"):
        images.draw({**spec, "hub": "no/data"})


def test_bad_images_are_named(hub_folder, tmp_path, table):
    """Too many rows, colour images, a label that is no digit, a class with too few images."""
    with pytest.raises(InputError, match=r"train_rows: 1700 with test_rows 98: .* at most 1797"):
        images.draw({**SPEC, "train_rows": 1700, "test_rows": 98})
    colour = np.zeros((4, 28, 28, 3), np.uint8)
    spec = hub_rows(hub_folder, train=(colour, [0] * 4), test=(colour, [0] * 4))
    with pytest.raises(InputError, match="expected square grey ones"):
        images.draw({**spec, "train_rows": 2, "test_rows": 2})
    write_table(tmp_path / "bad.parquet", table.assign(label=10))
    with pytest.raises(InputError, match=r"bad\.parquet: label 10; expected 0 to 9"):
        images.load(tmp_path / "bad.parquet")
    part = Digits(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]), torch.arange(3))
    with pytest.raises(InputError, match="2 images of every class asked for, 1 of class 0"):
        part.of_classes(2)


def test_enlarged_is_bilinear(data):
    """Against interpolation by hand between the centres of pixels."""
    small = data["train"].images[:3]
    big = images.enlarged(Digits(small, torch.zeros(3), torch.zeros(3)), 28).images
    places = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    rows = np.stack([np.interp(places, np.arange(8), column) for column in
                     small.numpy().transpose(0, 1, 3, 2).reshape(-1, 8)])  # fmt: skip
    rows = rows.reshape(3, 8, 28).transpose(0, 2, 1).reshape(-1, 8)
    expected = np.stack([np.interp(places, np.arange(8), row) for row in rows])
    np.testing.assert_allclose(big.numpy().reshape(-1, 28), expected, atol=1e-6)
    assert images.enlarged(data["train"], 8) is data["train"]


def test_networks_are_the_papers():
    """Sizes, logits without a last squashing, and weights fixed by the seed alone."""
    mlp, lenet = networks.build("mlp", 28, 0), networks.build("lenet", 28, 0)
    shapes = [tuple(w.shape) for w in mlp.parameters() if w.ndim == 2]
    assert shapes == [(128, 784), (128, 128), (128, 128), (128, 128), (10, 128)]
    assert [tuple(w.shape) for w in lenet.parameters() if w.ndim > 1] == [
        (6, 1, 5, 5), (16, 6, 5, 5), (60, 400), (42, 60), (10, 42)]  # fmt: skip
    for network in (mlp, lenet):
        assert isinstance(network[-1], nn.Linear)
        with torch.no_grad():
            network[-1].bias += 100
        assert network(torch.rand(2, 1, 28, 28)).min() > 50
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    again, other = networks.build("lenet", 28, 0), networks.build("lenet", 28, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again[0].weight, lenet[0].weight)
    assert not torch.equal(other[0].weight, lenet[0].weight)


def brute_force(network, observed, updated):
    """K by one backward pass per image and logit."""

    def rows(batch):
        out = []
        for image in batch:
            logits = network(image[None])[0]
            for k in range(10):
                found = torch.autograd.grad(
                    logits[k], list(network.parameters()), retain_graph=True
                )
                out.append(torch.cat([g.flatten() for g in found]))
        return torch.stack(out)

    product = rows(observed) @ rows(updated).T
    return product.reshape(len(observed), 10, len(updated), 10).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entk_is_the_product_of_per_output_gradients(case, dtype):
    """To 1e-5 of its size, in one block and in many."""
    _, network, data = case
    network = network.to(dtype)
    observed, updated = data["test"].images[:4].to(dtype), data["train"].images[:3].to(dtype)
    expected = brute_force(network, observed, updated)
    assert expected.shape == (4, 3, 10, 10)
    for floats in (kernel.FLOATS, 1):
        found = kernel.entk(network, observed, updated, floats)
        assert (found - expected).norm() / expected.norm() < 1e-5
        assert ((found - expected).abs() <= 1e-5 * expected.abs().max()).all()
    assert torch.allclose(  # x_o and x_u swap places with the transpose
        kernel.entk(network, updated, observed), expected.permute(1, 0, 3, 2), rtol=1e-4, atol=1e-5
    )


def test_first_order_error_falls_with_the_square_of_the_rate(case):
    """Proposition 1 against a step that is really taken, in fp64: the remainder is O(η²)."""
    _, network, data = case
    network = network.double()
    observed, updated = data["test"].images[:6].double(), data["train"].images[:1].double()
    label = data["train"].labels[:1]
    start = {name: value.clone() for name, value in network.state_dict().items()}
    errors, sizes = [], []
    for lr in (1e-2, 5e-3, 2.5e-3):
        predicted = kernel.first_order(network, observed, updated, label, lr)[:, 0]
        before = network(observed).log_softmax(1).detach()
        network.zero_grad()
        cross_entropy(network(updated), label).backward()
        torch.optim.SGD(network.parameters(), lr=lr).step()
        change = network(observed).log_softmax(1).detach() - before
        network.load_state_dict(start)
        errors.append(float((change - predicted).norm()))
        sizes.append(float(change.norm()))
    assert errors[0] < 0.1 * sizes[0]
    for one, half in itertools.pairwise(errors):
        assert one / half == pytest.approx(4, rel=0.1)


def test_a_is_the_jacobian_of_log_softmax_and_g_of_cross_entropy():
    """The two outer factors of Proposition 1, by autograd."""
    torch.manual_seed(0)
    logits = torch.randn(10, dtype=torch.float64)
    a = torch.autograd.functional.jacobian(lambda z: z.log_softmax(0), logits)
    assert torch.allclose(a, torch.eye(10) - logits.softmax(0).expand(10, 10))
    batch, labels = torch.randn(3, 10, dtype=torch.float64), torch.tensor([4, 0, 9])
    g = torch.autograd.functional.jacobian(
        lambda z: cross_entropy(z, labels, reduction="sum"), batch)  # fmt: skip
    assert torch.allclose(kernel.residual(batch, labels), g)


@settings(max_examples=15)
@given(epochs=st.integers(1, 60), start=st.floats(1e-4, 1), end=st.floats(0, 1e-4))
def test_cosine_is_torchs(epochs, start, end):
    """One rate per epoch, as torch's scheduler steps it."""
    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(weights, lr=start)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=end)
    for epoch in range(epochs):
        assert training.cosine(epoch, epochs, start, end) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-6, abs=1e-12)  # fmt: skip
        optimizer.step()
        schedule.step()


def test_training_is_sgd_with_momentum_and_decay(case):
    """Two epochs by the textbook's formula; every image is met once per epoch; what is reported of
    an epoch is its own."""
    _, network, data = case
    network, digits = network.double(), data["train"]
    digits = Digits(digits.images[:20].double(), digits.labels[:20], digits.ids[:20])
    spec, lrs = {"batch_size": 8, "momentum": 0.9, "weight_decay": 0.01}, [0.05, 0.02]
    by_hand = copy.deepcopy(network)
    order = torch.Generator().manual_seed(7)
    speed = [torch.zeros_like(w) for w in by_hand.parameters()]
    expected = []
    for lr in lrs:
        start = nn.utils.parameters_to_vector(by_hand.parameters()).detach().clone()
        losses = []
        permuted = torch.randperm(20, generator=order)
        assert sorted(permuted.tolist()) == list(range(20))
        for rows in (permuted[:8], permuted[8:16], permuted[16:]):
            loss = cross_entropy(by_hand(digits.images[rows]), digits.labels[rows])
            gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
            losses += [loss.item()] * len(rows)
            with torch.no_grad():
                for w, v, g in zip(by_hand.parameters(), speed, gradients, strict=True):
                    v.mul_(0.9).add_(g + 0.01 * w)
                    w -= lr * v
        end = nn.utils.parameters_to_vector(by_hand.parameters()).detach()
        expected.append((lr, np.mean(losses), float((end - start).norm() / start.norm())))
    rows = list(training.train(network, digits, spec, lrs, 7))
    assert [(row["epoch"], row["updates"]) for row in rows] == [(0, 0), (1, 3), (2, 6)]
    assert math.isnan(rows[0]["train_loss"])
    for row, values in zip(rows[1:], expected, strict=True):
        assert (row["lr"], row["train_loss"], row["moved"]) == pytest.approx(values)
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs)


def test_single_steps_are_steps_and_leave_the_network(case):
    """log π after is that of a copy that took the step; the network stays; the prediction is that
    of Proposition 1; x_u itself is observed too."""
    name, network, data = case
    start = copy.deepcopy(network.state_dict())
    steps = measure.one_steps(network, data, 1, 0.05)
    assert all(torch.equal(value, start[key]) for key, value in network.state_dict().items())
    assert len(steps) == 10 * 11 * 10
    updates, others = data["train"].of_classes(1), data["test"].of_classes(1)
    assert list(updates.labels) == list(others.labels) == list(range(10))
    for n in (0, 4):
        moved = copy.deepcopy(network)
        cross_entropy(moved(updates.images[n : n + 1]), updates.labels[n : n + 1]).backward()
        torch.optim.SGD(moved.parameters(), lr=0.05).step()
        for split, seen in (("test", others), ("train", updates)):
            rows = steps[(steps["update_class"] == n) & (steps["split"] == split)]
            part = seen if split == "test" else Digits(*(v[n : n + 1] for v in vars(seen).values()))
            assert list(rows["observed_id"]) == part.ids.repeat_interleave(10).tolist()
            assert list(rows["observed_class"]) == part.labels.repeat_interleave(10).tolist()
            assert set(rows["update_id"]) == {int(updates.ids[n])}
            for column, model in (("logp_before", network), ("logp_after", moved)):
                found = torch.tensor(rows[column].to_numpy().reshape(-1, 10))
                expected = model(part.images).log_softmax(1).detach()
                assert torch.allclose(found.float(), expected, atol=1e-5), (name, split, column)
            predicted = kernel.first_order(
                network, part.images, updates.images[n : n + 1], updates.labels[n : n + 1], 0.05
            )[:, 0]
            assert torch.allclose(
                torch.tensor(rows["predicted"].to_numpy().reshape(-1, 10)).float(), predicted,
                atol=1e-5,
            )  # fmt: skip


def test_learning_is_fixed_by_the_seed(data):
    """Equal tables for equal seeds, whatever the global generator; other ones for another."""
    first = measure.learn("mlp", data, SPEC, 0)
    torch.manual_seed(12345)
    for one, two in zip(first, measure.learn("mlp", data, SPEC, 0), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    other = measure.learn("mlp", data, SPEC, 1)
    assert not np.allclose(first[1]["probability"], other[1]["probability"])
    seen = first[1]
    assert set(seen["epoch"]) == {0, 2}
    sums = seen.groupby(["epoch", "split", "true_class"])["probability"].sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-5)


@given(epochs=st.integers(2, 120), dense=st.integers(1, 40), every=st.integers(1, 30))
def test_measured_epochs_come_in_neighbours(epochs, dense, every):
    """Start, every early epoch and the end are measured; every later one has a neighbour."""
    found = measure.measured_epochs(epochs, dense, every)
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] == epochs
    assert set(range(min(dense, epochs) + 1)) <= set(found)
    assert all(e - 1 in found or e + 1 in found for e in found)
    assert max(np.diff(found)) <= every


def test_the_tracked_kernel_is_the_kernel(data):
    """Norms and changes of the first two epochs, from a network trained to there."""
    found, facts = measure.track("mlp", data, SPEC, 0, lambda line: None)
    assert sorted(set(found["epoch"])) == list(facts["epoch"]) == [0, 1, 2, 3, 4, 5]
    assert (facts["lr"][1:] == SPEC["lr"]).all()
    network = networks.build("mlp", 8, 0)
    updated, observed = data["train"].of_classes(1), data["test"].of_classes(1)
    previous = None
    for row in training.train(network, data["train"], SPEC, [SPEC["lr"]] * 2, 0):
        now = brute_force(network, observed.images, updated.images)
        for u, o in ((4, 9), (9, 4), (0, 0)):
            part = found[(found["epoch"] == row["epoch"]) & (found["update_class"] == u)
                         & (found["observed_class"] == o)].iloc[0]  # fmt: skip
            assert part["norm"] == pytest.approx(float(now[o, u].norm()), rel=1e-4)
            if previous is None:
                assert math.isnan(part["change"])
            else:
                change = (now[o, u] - previous[o, u]).norm() / previous[o, u].norm()
                assert part["change"] == pytest.approx(float(change), rel=1e-2)
        previous = now


def made_up():
    """Tables of two seeds: training images of class k are taken for k + 1 with 0.2 and for k − 1
    least, test images for k + 2 and k − 2."""
    rows = []
    for split, next_to in (("train", 1), ("test", 2)):
        peaks = {0: 0.6, next_to: 0.2, 10 - next_to: 0.004}
        for true, k in itertools.product(range(10), range(10)):
            end = peaks.get((k - true) % 10, 0.196 / 7)
            rows += [(0, split, true, k, 0.1, 20), (5, split, true, k, end, 20)]
    columns = ["epoch", "split", "true_class", "class", "probability", "images"]
    predictions = pd.DataFrame(rows, columns=columns)
    gains = {0: 0.3, 1: 0.2}  # by how far the observed class lies above that of the update
    steps, start = [], math.log(0.1)
    for update in range(10):
        for split, observed in [("train", update), *(("test", o) for o in range(10))]:
            for k in range(10):
                change = gains.get((observed - update) % 10, 0.1) * (k == update)
                ids = (update, update, split, observed, observed, k)
                steps.append((*ids, start, start + change, 0.9 * change))
    names = ["update_id", "update_class", "split", "observed_id", "observed_class", "class",
             "logp_before", "logp_after", "predicted"]  # fmt: skip
    steps = pd.DataFrame(steps, columns=names)
    return dict.fromkeys((0, 3), predictions), dict.fromkeys((0, 3), steps)


def made_up_kernel(settles):
    """Two seeds of a kernel over 12 epochs whose order over class pairs is settled, or reversed in
    the middle; its size grows."""
    rng = np.random.default_rng(0)
    size = rng.random(100) + 0.5
    out, facts = {}, {}
    for seed in (0, 1):
        rows = []
        for epoch in range(13):
            now = size * (1 + epoch) if settles or epoch > 6 else (2.5 - size) * (1 + epoch)
            for pair in range(100):
                change = math.nan if epoch == 0 else 1 / epoch
                rows.append((epoch, pair // 10, pair % 10, now[pair], change))
        out[seed] = pd.DataFrame(
            rows, columns=["epoch", "update_class", "observed_class", "norm", "change"]
        )
        facts[seed] = pd.DataFrame(
            {"epoch": range(13), "updates": range(13), "lr": 0.1, "train_loss": 0.2,
             "test_loss": 0.2, "moved": [math.nan, *[0.01] * 12], "test_accuracy": 0.9}
        )  # fmt: skip
    return out, facts


def test_summary_reads_what_was_put_in():
    """Similar and dissimilar class, probabilities around a step, pulls and the error of the first
    order, by arithmetic."""
    predictions, steps = made_up()
    assert summary.relatives(predictions, 4) == (5, 3)
    assert summary.relatives(predictions, 9) == (0, 8)
    assert summary.matrix(predictions)[:, 4, 6] == pytest.approx(0.2)
    assert summary.matrix(predictions, first=True) == pytest.approx(0.1)
    for observed, gain in ((4, 0.3), (5, 0.2), (6, 0.1), (None, 0.3)):
        before, after, predicted = summary.step_probabilities(steps, 4, observed)
        assert before == pytest.approx(0.1)
        assert after[:, 4] == pytest.approx(0.1 * math.exp(gain))
        assert predicted[:, 4] == pytest.approx(0.1 * math.exp(0.9 * gain))
        assert after[:, 5] == pytest.approx(0.1)
    assert summary.pull(steps, {u: u for u in range(10)}) == pytest.approx(0.3)
    assert summary.pull(steps, {u: (u + 1) % 10 for u in range(10)}) == pytest.approx(0.2)
    assert summary.first_order_error(steps) == pytest.approx(0.1)
    facts = {s: pd.DataFrame({"test_accuracy": [0.1, 0.8], "train_loss": [math.nan, 0.5]})
             for s in (0, 3)}  # fmt: skip
    rows = summary.learnt("mlp", facts, predictions, steps).set_index("statistic")
    assert rows.loc["test accuracy", "value"] == 0.8
    assert rows.loc["mean π(9) on 4s", "value"] == pytest.approx(0.196 / 7)
    assert rows.loc["mean π(9) on 4s", "published"] == 0.19
    assert rows.loc["relative error of −ηAKG", "seeds"] == 2


def test_summary_of_the_kernel():
    """A relative influence that is settled correlates with its end throughout, whatever its size;
    one that turns does not; phases average what they name."""
    epochs, norms = summary.curves(made_up_kernel(True)[0], "norm")
    assert list(epochs) == list(range(13)) and norms.shape == (2, 13, 10, 10)
    assert norms[0, 3, 7, 2] == pytest.approx(made_up_kernel(True)[0][0].query(
        "epoch == 3 and update_class == 7 and observed_class == 2")["norm"].iloc[0])  # fmt: skip
    assert summary.likeness_to_end(norms) == pytest.approx(1)
    turned = summary.likeness_to_end(summary.curves(made_up_kernel(False)[0], "norm")[1])
    assert turned[:, :7] == pytest.approx(-1) and turned[:, 7:] == pytest.approx(1)
    rows = summary.tracked("mlp", *made_up_kernel(True), 4).set_index("statistic")["value"]
    early = np.mean([1 / e for e in (1, 2, 3, 4)])
    assert rows["change of K per epoch, epochs 1 to 4"] == pytest.approx(early)
    late = np.mean([1 / e for e in (10, 11, 12)])
    assert rows["change of K per epoch, last fifth"] == pytest.approx(late)
    assert rows["change of the weights per epoch, last fifth"] == pytest.approx(0.01)


def figure_inputs(seeds, networks):
    """Study and tables of both figures, as their scripts read them."""
    predictions, steps = (dict(zip(seeds, t.values(), strict=False)) for t in made_up())
    kernels, facts = ({s: t[s] for s in seeds} for t in made_up_kernel(False))
    study = {"study": "test", "dataset": "made up", "model": "mlp", "seeds": seeds, "dense": 4,
             "step_lr": 0.05}  # fmt: skip
    for module, tables in ((mnist, (predictions, steps)), (entk_mnist, (kernels, facts))):
        yield module, study, dict.fromkeys(networks, tables)


def test_figures_from_tables(tmp_path):
    """Both figures with one network and one seed, which has no interval; equal tables give equal
    files. With two of both, in tests/test_pipeline.py."""
    for module, study, tables in figure_inputs([0], ["mlp"]):
        for name in ("a.pdf", "b.pdf"):
            style.save(module.draw(study, tables), [tmp_path / name])
        assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_titles_say_what_the_tables_hold():
    """No heading that is true whatever the data: the leaning class, the class that gains most, the
    classes whose own kernel is largest, the change in both phases."""
    for module, study, tables in figure_inputs([0, 1], ["mlp"]):
        figure = module.draw(study, tables)
        parts = [part for level in figure.subfigs for part in (level, *level.subfigs)]
        found = " ".join(t.get_text() for part in (figure, *parts) for t in part.texts)
        if module is mnist:
            assert "4s lean to 6" in found
            assert "It lifts π(4) most for: same class" in found
        else:
            norms = summary.curves(tables["mlp"][0], "norm")[1].mean(0)[-1]
            own = sum(norms[k].argmax() == k for k in range(10))
            assert f"its own class most for {own} of 10" in found
            assert f"MLP {np.mean([1, 1 / 2, 1 / 3, 1 / 4]):.2%} in the first 4, " in found


def test_drawing_needs_no_torch():
    """Figures redraw from tables on a machine without torch."""
    code = ("import sys; from learning_dynamics.figures import mnist, entk_mnist; "
            "assert 'torch' not in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def script(name, *words):
    """Run a workflow script as the pipeline does."""
    command = [sys.executable, ROOT / "workflow_scripts" / f"{name}.py", *words]
    known = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [*map(str, command)]
    return subprocess.run(words, cwd=ROOT, env=known, capture_output=True, text=True)


def test_a_broken_image_table_is_one_line_and_leaves_nothing(tmp_path):
    """Truncated Parquet: no traceback, no half output."""
    (tmp_path / "images.parquet").write_bytes(b"PAR1 and no more")
    outputs = [f"--{name}={tmp_path / name}" for name in ("training", "predictions", "one-step")]
    done = script("learn_digits", "--images", tmp_path / "images.parquet", "--network", "mlp",
                  "--spec", json.dumps(SPEC), "--seed", "0", *outputs)  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "images.parquet: not a whole Parquet file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images.parquet"]


@pytest.mark.parametrize(
    ("overlay", "line"),
    [
        ({"digits": {"train_rows": 1001}}, r"digits\.train_rows: 1001: with test_rows 1798"),
        ({"digits": {"source": "hub"}}, r"digits\.source: 'hub': expected digits\.hub"),
        ({"digits": {"source": "hub", "hub": "a/b"}}, r"'hub': expected digits\.revision"),
        ({"digits": {"source": "mnist"}}, r"digits\.source: 'mnist': expected one of sklearn, hub"),
        ({"digits": {"lr": {"mlp": "1e-3"}}}, r"digits\.lr\.mlp: '1e-3': expected type number"),
        ({"digits": {"lr": {"cnn": 0.1}}}, r"digits\.lr\.cnn: unknown key"),
        ({"digits": {"momentum": 1.0}}, r"digits\.momentum: 1\.0: expected less than 1"),
        ({"digits": {"entk": {"images": 0}}}, r"digits\.entk\.images: 0: expected at least 1"),
        ({"figures": {"mnist": {"networks": ["vit"]}}}, r"figures\.mnist\.networks\.0: 'vit': ex"),
        ({"figures": {"entk_mnist": {"networks": []}}}, r"figures\.entk_mnist\.networks"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_one_line(tmp_path, overlay, line):
    """Naming file, field, value and what was expected."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    files = [ROOT / "config.yaml", path]
    with pytest.raises(InputError, match=line) as found:
        Study(load_config(files), files)
    assert "\n" not in str(found.value) and str(found.value).startswith(str(path))

"""The mutual kernel against gradients, finite differences and explicit A, K and G; its stability on
kernels whose stability is known. Gold values are float64."""

import numpy as np
import pandas as pd
import pytest
import torch

from learning_dynamics import influence, stability
from learning_dynamics.figures import kernel as figure
from learning_dynamics.figures import style
from learning_dynamics.influence import directions, explicit, mutual
from learning_dynamics.rows import Rows
from learning_dynamics.scoring import Engine, Tree
from tests.test_influence import close, network, start, trees

PROMPTS = trees(7, (3, 1, 5), 2)


@pytest.fixture(scope="module")
def engine():
    return Engine(network())


@pytest.fixture(scope="module")
def truth(engine):
    """I by a gradient of every response, in influence.gradient_dots."""
    probes = influence.Probes(engine, PROMPTS, 600)
    weights = directions.trainable(engine)
    rows = []
    for single in probes.single:
        logp = torch.log_softmax(
            engine.model(torch.tensor([[*single.prompt, *single.responses[0]]])).logits[0], -1
        )  # the model's own pass, not the engine's
        labels = torch.tensor(single.responses[0])
        first = len(single.prompt) - 1
        total = logp[first:-1].gather(1, labels[:, None]).sum()
        found = torch.autograd.grad(total, list(weights.values()))
        rows.append(influence.gradient_dots(engine, dict(zip(weights, found)), probes))  # noqa: B905
    return np.array(rows)


def test_blocks_hold_every_number_once():
    assert list(mutual._blocks([5, 3, 4], 4)) == [[(0, 0, 4)], [(0, 4, 5), (1, 0, 3)], [(2, 0, 4)]]


@pytest.mark.parametrize("numbers", [100, 1000, 10**9])
def test_gram_is_every_pair_of_gradients(engine, truth, numbers):
    """Whatever the blocks of parameters: parts of tensors, several, all at once."""
    found = mutual.gram(engine, PROMPTS, most_bytes=8 * len(truth) * numbers)
    assert close(found, truth, 1e-9)
    assert (found == found.T).all() and (np.linalg.eigvalsh(found) > -1e-9).all()


def test_gram_is_a_finite_difference_and_a_k_g(engine, truth):
    """A plain SFT step on u: influence.finite_difference, and −η A K G with explicit tensors."""
    probes = influence.Probes(engine, PROMPTS, 600)
    steps = mutual.small_steps(engine, PROMPTS, 600)
    assert close(steps[2], truth, 1e-7)
    for number, single in enumerate(probes.single):
        learner, _ = start("sft", network())
        rows = Rows([single])
        step = influence.gradient_step(influence.gradients(learner, rows, [0]), 1.0)
        found = probes.sums(influence.finite_difference(learner.engine, step.total, probes))
        assert close(found, truth[number], 1e-7)
        parts = [t for tree in PROMPTS for t in explicit.terms(learner, rows, [0], tree)]
        change = [one.change(1.0) for one in parts]
        labels = [torch.tensor(r)[:, None] for tree in PROMPTS for r in tree.responses]
        sums = [float(c.gather(1, at).sum()) for c, at in zip(change, labels, strict=True)]
        assert close(np.array(sums), truth[number], 1e-9)
        norms = np.array([float((c**2).sum()) for c in change])
        assert close(steps[0][number], norms, 1e-6)
        assert close(steps[1][number], np.array([float(c.mean()) for c in change]), 1e-6)
        a_sq, g_sq = mutual.norms(engine, PROMPTS)
        assert g_sq[number] == pytest.approx(float((parts[0].g ** 2).sum()))
    assert close(a_sq, np.array([float((one.a**2).sum()) for one in parts]), 1e-12)


def test_measure_leaves_weights_and_end_of_text(engine):
    """Of each response its first n_tokens count; a row per ordered pair, in the schema."""
    before = [p.detach().clone() for p in engine.parameters()]
    identity = pd.DataFrame(
        {"example_id": list("aaabbb"), "response_type": list("xyzxyz"),
         "n_tokens": [2, 1, 5, 3, 1, 4]}
    )  # fmt: skip
    table = mutual.measure(engine, PROMPTS, identity, 600, 10**6)
    assert list(table) == mutual.COLUMNS == stability.NEEDS and len(table) == 36
    assert all((p == q).all() for p, q in zip(before, engine.parameters(), strict=True))
    sizes = iter(identity["n_tokens"])
    cut = [Tree(t.prompt, [r[: next(sizes)] for r in t.responses]) for t in PROMPTS]
    found = mutual.gram(engine, cut, 10**9)
    at = table[(table["update_id"] == "b") & (table["update_type"] == "z")]
    assert np.allclose(at["influence"], found[5])
    assert list(at["observed_tokens"]) == list(identity["n_tokens"])
    # Cauchy–Schwarz: the sum over the labels is bounded by the norm over the vocabulary.
    bound = table["observed_tokens"] * table["delta_sq"]
    assert (table["influence"] ** 2 <= bound * (1 + 1e-6)).all()


def synthetic(matrix, types="uvwx", prompts="ab", seed=0):
    """A mutual.parquet of a given kernel between responses, prompt by prompt."""
    names = [(p, t) for p in prompts for t in types]
    rng = np.random.default_rng(seed)
    tokens = dict(zip(names, rng.integers(2, 9, len(names)), strict=True))
    rows = [
        (*u, tokens[u], *o, tokens[o], matrix[i, j], 2.0, 3.0, 6 * matrix[i, j] ** 2, matrix[i, j])
        for i, u in enumerate(names)
        for j, o in enumerate(names)
    ]
    return pd.DataFrame(rows, columns=stability.NEEDS)


def positive(size, seed=0):
    factor = np.random.default_rng(seed).normal(size=(size, 3))
    return factor @ factor.T


def value(table, **of):
    found = table[np.logical_and.reduce([table[k] == v for k, v in of.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_a_frozen_kernel_is_frozen_and_a_scaled_one_grows():
    """ρ and cosine 1 with no width; the norm follows the scale (a power of two, which rounds
    nothing: equal entries stay equal); another kernel is neither."""
    one = {seed: positive(8, seed) for seed in range(3)}
    stages = {
        "first": {s: synthetic(m) for s, m in one.items()},
        "scaled": {s: synthetic(4 * m) for s, m in one.items()},
        "other": {s: synthetic(positive(8, s + 90)) for s in one},
    }
    table = stability.stability(stages)
    for scope in stability.SCOPES:
        for statistic, wanted in (("pairs", 1), ("each_update", 1), ("matrix_cosine", 1),
                                  ("norm_change", 3)):  # fmt: skip
            row = value(table, compared="stages", to="scaled", scope=scope, unit="influence",
                        statistic=statistic, **{"from": "first"})  # fmt: skip
            assert [row["value"], row["low"], row["high"]] == pytest.approx([wanted] * 3)
        row = value(table, compared="stages", to="scaled", scope=scope, unit="cosine",
                    statistic="norm_change", **{"from": "first"})  # fmt: skip
        assert row["value"] == pytest.approx(0)  # a cosine knows no scale
        row = value(table, compared="stages", to="other", scope=scope, unit="influence",
                    statistic="pairs", **{"from": "first"})  # fmt: skip
        assert row["value"] < 0.9 and row["high"] - row["low"] > 0.01
    seeds = table[table["compared"] == "seeds"]
    assert (seeds["value"] < 0.9).all()  # kernels that have nothing to do with each other
    assert set(seeds["statistic"]) == {"pairs", "each_update"} and seeds["low"].isna().all()
    counts = table.groupby("scope")["pairs"].unique().to_dict()
    assert {k: list(v) for k, v in counts.items()} == {"all": [16], "within": [12], "between": [16]}


def test_numbers_by_hand():
    """Within: u ≠ o at equal prompts, the mean over prompts; between: the others. Sizes of rows
    alone make ρ over all pairs high, and that of each update says nothing."""
    matrix = np.arange(16.0).reshape(4, 4) + 1
    table = stability.in_units(synthetic(matrix, "uv"))
    means = table.groupby(["scope", *stability.PAIR])["influence"].mean()
    # responses: 0 = (a, u), 1 = (a, v), 2 = (b, u), 3 = (b, v)
    assert means["within", "u", "v"] == (matrix[0, 1] + matrix[2, 3]) / 2
    assert means["between", "u", "v"] == (matrix[0, 3] + matrix[2, 1]) / 2
    assert means["between", "u", "u"] == (matrix[0, 2] + matrix[2, 0]) / 2
    seeds = {0: synthetic(matrix, "uv"), 1: synthetic(3 * matrix, "uv")}
    written = stability.by_types({"s": seeds})
    row = value(written, scope="within", update="u", observed="v")
    assert row["influence"] == 2 * means["within", "u", "v"] and row["seeds"] == 2
    half = 12.7062 * means["within", "u", "v"]  # t of one degree of freedom × standard error
    assert row["influence_high"] - row["influence"] == pytest.approx(half, rel=1e-4)
    cosine = table.set_index(stability.RESPONSES)["cosine"]
    assert cosine["a", "u", "b", "v"] == pytest.approx(matrix[0, 3] / (matrix[0, 0] * 16) ** 0.5)
    names = {"index": list("uvw"), "columns": list("uvw")}
    one = pd.DataFrame([[1.0, 2, 3], [11, 12, 13], [21, 22, 23]], **names)
    two = one[["w", "v", "u"]].set_axis(list("uvw"), axis=1)
    found = stability.rank_correlations(one, two)
    assert found["pairs"] == pytest.approx(1 - 6 * (6 * 4) / (9 * 80))
    assert found["each_update"] == -1


def test_proxies_are_compared_in_the_kernels_units():
    """Exact proxies agree wholly; one of the wrong sign is seen; LBK asks for size alone."""
    matrix = positive(8, 3)
    right = synthetic(matrix)
    right["delta_sq"] = right["influence"] ** 2
    right["sign_delta"] = right["influence"] / right["observed_tokens"]
    wrong = right.assign(sign_delta=-right["sign_delta"])
    stages = {"right": {0: right, 1: right}, "wrong": {0: wrong, 1: wrong}}
    table = stability.proxies(stages)
    for scope in stability.SCOPES:
        for stage, rho, sign in (("right", 1, 1), ("wrong", -1, 0)):
            of = {"stage": stage, "scope": scope}
            assert value(table, **of, proxy="lbk", statistic="pairs")["value"] == pytest.approx(1)
            of["proxy"] = "sign_delta"
            assert value(table, **of, statistic="pairs")["value"] == pytest.approx(rho)
            assert value(table, **of, statistic="sign")["value"] == sign


@pytest.mark.parametrize("count", [1, 3])
def test_figure_says_what_the_tables_say(tmp_path, count):
    """With one seed (no intervals, no control) and three; two stages suffice; stages in order, the
    heat maps below the stairs within prompts, own types of any name."""
    stages = {
        name: {s: synthetic(positive(8, 10 * s) + shift * positive(8, 5), "uvwx") for s in
               range(count)}
        for name, shift in (("base", 0.0), ("my$run@1", 0.5))
    }  # fmt: skip
    tables = [f(stages) for f in (stability.by_types, stability.stability, stability.proxies)]
    study = {"study": "s", "dataset": "d", "model": "m", "seeds": list(range(count)), "examples": 2}
    found = figure.draw(study, *tables, None)
    maps, panels = found.axes[:2], found.axes[3:]  # between them the scale of the colours
    cosines = tables[0][tables[0]["stage"] == "base"]
    grid = np.asarray(maps[0].images[0].get_array())
    for i, j, scope in ((2, 0, "within"), (0, 2, "between"), (1, 1, "between")):
        of = {"update": "uvwx"[i], "observed": "uvwx"[j], "scope": scope}
        assert grid[i, j] == pytest.approx(value(cosines, **of)["cosine"])
    along = value(tables[1], compared="stages", scope="within", unit="influence",
                  statistic="each_update")["value"]  # fmt: skip
    assert any(np.allclose(line.get_ydata(), [along]) for line in panels[0].get_lines()
               if len(line.get_ydata()) == 1)  # fmt: skip
    said = " ".join(text.get_text() for text in found.texts)
    assert f"ρ = {along:.2f}" in said and ("between seeds" in said) == (count > 1)
    style.save(found, [tmp_path / "kernel.pdf"])
    assert (tmp_path / "kernel.pdf").read_bytes()[:5] == b"%PDF-"

"""figures/residuals, algorithms and forget: the numbers behind them, what is drawn, the scripts."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from learning_dynamics import forgetting, frontier, theory, updates
from learning_dynamics.algorithms import ALGORITHMS, algorithm
from learning_dynamics.figures import algorithms, forget, residuals, style
from learning_dynamics.files import write_table
from tests.conftest import ROOT
from tests.test_frontier import curves, falling, grid, trajectory

STUDY = {"study": "toy", "dataset": "toyworld", "model": "toy-neox", "seeds": [0, 1, 2]}
BEFORE = updates.distribution()


def texts(figure):
    """Every text of a figure."""
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def outside(figure):
    """The visible texts that leave the figure by more than 3 pixels; tick labels beyond the limits
    of their axis are not drawn."""
    figure.canvas.draw()
    width, height = figure.bbox.size
    axis = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {
        t for one in axis for tick in one.get_major_ticks() for t in (tick.label1, tick.label2)
    }
    out = []
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        leaves = box.x0 < -3 or box.y0 < -3 or box.x1 > width + 3 or box.y1 > height + 3
        if leaves and text.get_text().strip() and text.get_visible() and text not in ticks:
            out.append(text.get_text())
    return out


# -- residuals: the tables -----------------------------------------------------------------------


def step_of(table, name, place):
    """Before and after of one panel, checked to be the distribution and another one."""
    rows = table[(table["algorithm"] == name) & (table["place"] == place)].sort_values("token")
    np.testing.assert_allclose(rows["before"], BEFORE)
    assert rows["after"].sum() == pytest.approx(1.0)
    return rows


def test_the_softmax_is_as_it_is_said_to_be():
    """A mode, a likely y⁻ second to it, y⁺, and a y⁻ in a valley."""
    order = np.argsort(-BEFORE)
    assert BEFORE.sum() == pytest.approx(1.0) and list(order[:2]) == [updates.PEAK, updates.LIKELY]
    assert BEFORE[updates.VALLEY] == pytest.approx(0.002) and BEFORE[updates.CHOSEN] == 0.08


@pytest.mark.parametrize("name", ["dpo", "ipo", "sppo", "kto", "spin", "online_dpo", "cdpo"])
def test_steps_are_those_of_theory(name):
    """Losses that push both responses equally hard: one step of η' = ±2 by the theory's own
    formula, and Lemma 1's ratio, at all three places."""
    table = updates.steps_table([algorithm(name)])
    for place, rate in (("chosen", 2.0), ("rejected", -2.0), ("rejected in a valley", -2.0)):
        rows, label = step_of(table, name, place), updates.PLACES[place]
        logits = np.log(BEFORE)
        expected = theory.softmax(theory.step(logits, label, rate))
        np.testing.assert_allclose(rows["after"], expected, rtol=1e-6)
        ratio = theory.lemma1_ratio(logits, label, rate)
        np.testing.assert_allclose(rows["after"] / rows["before"], ratio, rtol=1e-6)
        assert (rows["label"] == label).all()


def test_the_valley_feeds_the_peak_unless_the_gate_is_shut():
    """DPO: only the peak gains, and y⁻ pays next to nothing of it. Gated: nothing moves."""
    table = updates.steps_table([algorithm("dpo"), algorithm("gate_dpo"), algorithm("sft")])
    rows = step_of(table, "dpo", "rejected in a valley")
    gain = (rows["after"] - rows["before"]).to_numpy()
    assert np.flatnonzero(gain > 0).tolist() == [updates.PEAK] and gain.max() > 0.1
    assert -gain[updates.VALLEY] < 0.02 * gain.max()
    shut = step_of(table, "gate_dpo", "rejected in a valley")
    np.testing.assert_allclose(shut["after"], shut["before"], rtol=0.02)
    open_gate = step_of(table, "gate_dpo", "rejected")
    assert open_gate["after"].iloc[updates.PEAK] > BEFORE[updates.PEAK] + 0.1
    assert set(table.loc[table["algorithm"] == "sft", "place"]) == {"chosen"}


def test_one_response_stands_where_it_is_moved():
    """SFT pulls up; NPO and gradient ascent push away, from both kinds of y⁻."""
    table = updates.steps_table([algorithm(n) for n in ("sft", "npo", "gradient_ascent")])
    places = table.groupby("algorithm")["place"].unique().map(set).to_dict()
    away = {"rejected", "rejected in a valley"}
    assert places == {"sft": {"chosen"}, "npo": away, "gradient_ascent": away}
    assert (table[table["algorithm"] == "npo"]["coefficient"] < 0).all()


def test_coefficients_against_closed_forms():
    """c₊ and c₋ by differentiation equal the formulas of the papers, at every margin."""
    names = ["sft", "dpo", "ipo", "sppo", "simpo", "slic", "kto"]
    table = updates.coefficients_table([algorithm(n) for n in names])
    m = updates.MARGINS
    fade = 1 / (1 + np.exp(0.1 * m))  # 1 − σ(βm)
    half = 1 / (1 + np.exp(-0.1 * m / 2))  # σ(β r₊) = σ(−β r₋)
    length_gap = 2.0 / 20 / (1 + np.exp(2.0 * m / 20 - 1.0))
    expected = {
        "sft": (np.ones_like(m), None),
        "dpo": (0.1 * fade, -0.1 * fade),
        "ipo": (2 * (5 - m), -2 * (5 - m)),
        "sppo": (10 - m, -(10 - m)),
        "simpo": (length_gap, -length_gap),
        "slic": (0.1 + (m < 1), -1.0 * (m < 1)),
        "kto": (0.1 * half * (1 - half), -0.1 * half * (1 - half)),
    }
    for name, (up, down) in expected.items():
        rows = table[table["algorithm"] == name]
        smooth = np.abs(m - 1) > 1e-9 if name == "slic" else slice(None)  # but for its kink
        found = rows[["chosen", "rejected"]].to_numpy()[smooth]
        np.testing.assert_allclose(found[:, 0], up[smooth], atol=1e-9, err_msg=name)
        if down is None:
            assert rows["rejected"].isna().all()
        else:
            np.testing.assert_allclose(found[:, 1], down[smooth], atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_algorithm_has_its_tables(name):
    """No loss of the package is left out; all numbers are finite where there are any. The gradient
    of logits sums to zero, so that a step moves mass and makes none."""
    found = [algorithm(name)]
    steps, coefficients = updates.steps_table(found), updates.coefficients_table(found)
    assert np.isfinite(steps[["coefficient", "after"]]).all().all()
    assert len(coefficients) == len(updates.MARGINS)
    known = coefficients[["chosen", "rejected"]].dropna(axis=1, how="all")
    assert np.isfinite(known).all().all() and not known.empty
    spec = {key: setting.default for key, setting in found[0].settings.items()}
    labels = dict.fromkeys(found[0].responses, updates.LIKELY)
    for gradient in updates.gradient(found[0], spec, labels).values():
        assert gradient.sum() == pytest.approx(0.0, abs=1e-9)


def test_a_users_loss_of_logits_has_steps_alone(tmp_path, monkeypatch):
    """A loss that reads logits has an update, by differentiation, and no coefficients."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def flat(chosen, rejected_logits):\n"
        "    return -chosen + (rejected_logits ** 2).sum((1, 2))\n"
    )
    found = [algorithm("mine.py:flat"), algorithm("dpo")]
    assert set(updates.coefficients_table(found)["algorithm"]) == {"dpo"}
    slope = updates.gradient(found[0], {}, {"chosen": 6, "rejected": 13})["rejected"]
    np.testing.assert_allclose(slope, 2 * np.log(BEFORE))
    figure = residuals.draw(updates.steps_table(found), updates.coefficients_table(found))
    assert "flat" in texts(figure)


# -- residuals: the figure -----------------------------------------------------------------------


def residual_tables(names):
    found = [algorithm(name) for name in names]
    return updates.steps_table(found), updates.coefficients_table(found)


def test_losses_with_equal_residuals_are_drawn_once():
    """SPIN and online DPO are DPO here; conservative DPO is only at the left."""
    tables = residual_tables(["dpo", "cdpo", "spin", "sft", "online_dpo"])
    groups = residuals.merged(*tables)
    assert groups == {"dpo": ["dpo", "spin", "online_dpo"], "cdpo": ["cdpo"], "sft": ["sft"]}
    figure = residuals.draw(*tables)
    words = texts(figure)
    assert "dpo\nspin\nonline dpo" in words and words.count("not read") == 2
    assert sum(w.startswith("dpo (+2)") for w in words) == 2


def test_residuals_figure_says_who_feeds_the_peak():
    """The red numbers: DPO in the valley, of which y⁻ pays 1%; the gated loss does not push."""
    figure = residuals.draw(*residual_tables(["sft", "dpo", "ipo", "slic", "sppo", "kto", "simpo",
                                              "orpo", "gate_dpo"]))  # fmt: skip
    words = texts(figure)
    assert words.count("of which y⁻ pays 1%") == 4  # dpo, ipo, sppo, kto
    assert words.count("not pushed") == 4  # slic, simpo, orpo: apart already; gate_dpo: shut
    assert not outside(figure)
    many = residuals.draw(*residual_tables([n for n in ALGORITHMS if n != "gate_dpo_tokens"]))
    assert not outside(many)


# -- algorithms ----------------------------------------------------------------------------------


def panels_of(figure):
    """The frontier panels by their title: columns of small multiples."""
    titled = {}
    for axes in figure.findobj(lambda a: hasattr(a, "get_title") and hasattr(a, "lines")):
        title = axes.get_title(loc="center")
        if title:
            titled[title] = axes
    return titled


def test_algorithms_figure_shows_verdicts_runs_and_null():
    """One row and one column of panels per algorithm, coloured by verdict; thin lines for every
    run, coin flips in grey, a thick envelope."""
    table = grid().assign(shuffled=np.nan)
    figure = algorithms.draw(STUDY, table, frontier.verdicts(table))
    words = texts(figure)
    verdict_words = {"squeezes", "does not", "undecided", "no margin", "no control"}
    assert verdict_words | {"gains 10.0 nats at most"} <= set(words)
    assert "At equal margin (+60.0 nats): who squeezes?" in words
    panels = panels_of(figure)
    assert set(panels) == {"hard", "soft", "noisy", "idle", "alone"}
    for name, axes in panels.items():
        runs = {line.get_gid(): line for line in axes.lines if f"{name}-" in (line.get_gid() or "")}
        expected = {"given"} if name == "alone" else {"given", "coin"}
        assert {run.rsplit("-", 1)[1] for run in runs} == expected
        for run, line in runs.items():
            assert (line.get_color() == algorithms.NULL) == run.endswith("coin")
        colour = {"hard": style.IRRELEVANT, "soft": "#009E73"}.get(name, "#666666")
        thick = [line for line in axes.lines if line.get_linewidth() == 2]
        assert len(thick) == 1 and thick[0].get_color() == colour
    assert not outside(figure)
    # the thick line of "hard" is its one run: others fall by half a nat per nat of margin
    (thick,) = [line for line in panels["hard"].lines if line.get_linewidth() == 2]
    x, y = thick.get_data()
    np.testing.assert_allclose(y, -0.5 * np.asarray(x))


@pytest.mark.parametrize("count", [1, 8, 17])
def test_algorithms_figure_holds_few_and_many(count):
    """One algorithm, eight in one block, seventeen in two; every name is inside the figure."""
    parts = []
    for number in range(count):
        name = f"gate_dpo_tokens_{number}"
        parts += [curves(name, [0.5 + 0.01 * number, 0.5, 0.52]), curves(name, 0.1, labels="coin")]
    table = pd.concat(parts, ignore_index=True)
    figure = algorithms.draw(STUDY, table, frontier.verdicts(table))
    assert len(panels_of(figure)) == count and not outside(figure)


def test_algorithms_figure_without_seeds_margin_or_null():
    """One seed and no coin flips; no algorithm that gains anything."""
    one = curves("x", 0.5, seeds=(0,))
    figure = algorithms.draw({**STUDY, "seeds": [0]}, one, frontier.verdicts(one))
    assert "no control" in texts(figure) and not outside(figure)
    none = pd.concat([curves("x", 0.5, margin=-0.1), curves("y", 0.5, margin=0.0)])
    figure = algorithms.draw(STUDY, none, frontier.verdicts(none))
    assert texts(figure).count("no margin") == 2 and "No algorithm gains a margin" in texts(figure)


# -- forget --------------------------------------------------------------------------------------


def forget_runs():
    return pd.concat([
        falling("random_permute", -6.0, 0.4, best_other=0.5, others=-0.3),
        falling("chosen", -1.0, 0.2, best_other=0.2, others=-0.2),
        falling("random_permute", -6.0, 0.4, "gradient_ascent", best_other=0.1, others=-0.2),
        falling("chosen", -1.0, 0.2, "gradient_ascent", best_other=0.2, others=-0.2),
    ], ignore_index=True)  # fmt: skip


def test_forget_figure_shows_differences_and_verdicts():
    """A row per loss, the difference with its verdict over every panel, likely named as such."""
    table = forget_runs()
    figure = forget.draw(STUDY, table, forgetting.comparison(table))
    words = texts(figure)
    assert "forgetting y⁺ (likely: −1.0 nats a token)" in words
    assert "forgetting y⁺ shuffled (unlikely: −6.0 nats a token)" in words
    assert any(w.startswith("Δ +1.20 [") and w.endswith("supported") for w in words)
    assert any(w.startswith("Δ −0.40 [") and w.endswith("contradicted") for w in words)
    assert len(figure.axes) == 6 and not outside(figure)


def test_forget_figure_with_one_seed_and_three_targets():
    """Every unlikely target has a line of its own."""
    table = pd.concat([falling("chosen", -1.0, 0.2, seeds=1), falling("mine", -3.0, 0.2, seeds=1),
                       falling("random_permute", -6.0, 0.2, seeds=1)])  # fmt: skip
    figure = forget.draw({**STUDY, "seeds": [0]}, table, forgetting.comparison(table))
    assert "forgetting mine (unlikely: −3.0 nats a token)" in texts(figure)
    named = [w for w in texts(figure) if w.endswith("undecided")]
    assert sum(w.startswith("mine: Δ") for w in named) == 3 and len(named) == 6
    assert not outside(figure)


# -- the scripts ---------------------------------------------------------------------------------


def script(name, *arguments):
    """Run a workflow script as the rules do."""
    command = [sys.executable, str(ROOT / f"workflow_scripts/{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_scripts_from_trajectories_to_figures(tmp_path):
    """Trajectories on disk, the grid as the study lists it: tables with the planted numbers, and
    both files of each figure; drawn twice, a figure is the same file."""
    columns = dict.fromkeys(["greedy_match", "energy", "prob_norm", "logp_first", "logp_end"], 0.0)
    rates = {"chosen": 0.1, "rejected": -0.9, ("rejected", "logp_top_other"): 0.5}
    rng = np.random.default_rng(0)
    runs, forgotten = [], []
    for name, labels, rate in (("given", "given", rates), ("coin", "coin", {})):
        runs.append({"run": f"g-{name}", "algorithm": "dpo", "lr": 1e-4, "settings": {"beta": 0.1},
                     "labels": labels})  # fmt: skip
        for seed in (0, 1):
            noisy = {key: value * (1 + 0.01 * rng.random()) for key, value in rate.items()}
            table = trajectory(noisy, seed=seed).assign(**columns)
            folder = tmp_path / f"runs/toyworld/toy-neox/g-{name}/seed{seed}"
            write_table(folder / "trajectory.parquet", table)
    for target in ("chosen", "random_permute"):
        forgotten.append({"run": f"f-{target}", "algorithm": "npo", "lr": 1e-4,
                          "settings": {}, "target": target})  # fmt: skip
        for seed in (0, 1):
            table = trajectory({target: -0.5 - 0.1 * seed}, seed=seed).assign(**columns)
            folder = tmp_path / f"runs/toyworld/toy-neox/f-{target}/seed{seed}"
            write_table(folder / "trajectory.parquet", table)
    study = {**STUDY, "seeds": [0, 1]}
    at = {n: tmp_path / f"{n}.csv" for n in ("algorithms", "verdicts", "forget", "forgetting")}
    script("make_algorithms", "--study", json.dumps({**study, "runs": runs}), "--results", tmp_path,
           "--out", at["algorithms"], "--verdicts", at["verdicts"], "--markdown",
           tmp_path / "a.md", "--log", tmp_path / "log")  # fmt: skip
    verdict = pd.read_csv(at["verdicts"]).set_index("quantity").loc["best_other"]
    assert verdict["verdict"] == "squeezes" and verdict["margin"] == pytest.approx(20, rel=0.02)
    assert verdict["value"] == pytest.approx(10, rel=0.02) and verdict["coin"] == 0
    assert len(pd.read_csv(at["algorithms"])) == 2 * 2 * 3
    script("make_forget", "--study", json.dumps({**study, "runs": forgotten}), "--results",
           tmp_path, "--out", at["forget"], "--comparison", at["forgetting"], "--markdown",
           tmp_path / "f.md", "--log", tmp_path / "log")  # fmt: skip
    falls = pd.read_csv(at["forgetting"])["fall"]
    np.testing.assert_allclose(falls, 1.0, rtol=1e-6)  # y⁺: 10 nats over 10 tokens
    files = [tmp_path / "x.pdf", tmp_path / "x.png"]
    for name, second in (("algorithms", "verdicts"), ("forget", "forgetting")):
        flag = "--verdicts" if name == "algorithms" else "--comparison"
        contents = []
        for _ in range(2 if name == "algorithms" else 1):
            script(f"draw_{name}", "--study", json.dumps(study), "--table", at[name], flag,
                   at[second], "--out", *files, "--log", tmp_path / "log")  # fmt: skip
            contents.append([file.read_bytes() for file in files])
        assert contents[0] == contents[-1]


def test_residual_scripts(tmp_path):
    """The default list, and one that is given; the figure from the tables on disk."""
    tables = ["--steps", tmp_path / "s.csv", "--coefficients", tmp_path / "c.csv"]
    script("make_residuals", *tables, "--log", tmp_path / "log")
    assert {"sft", "dpo", "gate_dpo"} <= set(pd.read_csv(tmp_path / "s.csv")["algorithm"])
    script("make_residuals", "--algorithms", "dpo", "spin", *tables, "--log", tmp_path / "log")
    assert set(pd.read_csv(tmp_path / "s.csv")["algorithm"]) == {"dpo", "spin"}
    script("draw_residuals", *tables, "--out", tmp_path / "r.pdf", "--log", tmp_path / "log")
    assert (tmp_path / "r.pdf").stat().st_size > 1000


def test_drawing_needs_no_torch():
    """Figures redraw without the ML stack."""
    code = ("import sys; from learning_dynamics.figures import algorithms, forget, residuals; "
            "assert 'torch' not in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert torch.__version__  # which is here, and was not imported by it

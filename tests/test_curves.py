"""The trajectory figures: their curves and bands against closed forms and published numbers, what
they draw, the runs that they need, and how those are chosen and checked."""

import copy
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from learning_dynamics import inputs, models
from learning_dynamics.errors import InputError
from learning_dynamics.figures import (
    curves,
    dpo,
    dpo_models,
    extend,
    pipelines,
    rephrase,
    sft,
    sft_models,
    sft_then_dpo,
    style,
)
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.published import import_run
from learning_dynamics.rows import training_rows
from learning_dynamics.study import Study, load_config
from learning_dynamics.tokens import Codec
from tests.conftest import ROOT, run_spec

RUNS = ROOT.parent / "shared" / "data" / "published-runs"
STUDY = {"study": "toy", "dataset": "toyworld", "model": "toy-neox", "seeds": [0, 1, 2]}
COLUMNS = ["logp", "logp_argmax", "logp_top_other"]


def trajectory(
    slopes, steps=(0, 10, 20), seed=0, rows=40, examples=4, bend=0.0, kinds=RESPONSE_TYPES
):
    """Every type's columns move by ``slopes[type]`` (or ``slopes[type, column]``) nats an update,
    less ``bend`` × updates²; examples start at different levels."""
    rng, out = np.random.default_rng(seed), []
    for number, kind in enumerate(kinds):
        for example in range(examples):
            start = -20 - number - 5 * rng.random()
            for step in steps:
                row = {"step": step, "examples": 4 * step, "epoch": 4 * step / rows}
                row |= {"split": "train", "example_id": f"e{example}", "response_type": kind}
                row |= {"n_tokens": 10, "energy": 0.6 - step / 1000, "greedy_match": 0.5}
                for column in COLUMNS:
                    slope = slopes.get((kind, column), slopes.get(kind, 0.0))
                    row[column] = start + slope * step - bend * step**2
                out.append(row)
    return inputs.curve_columns(pd.DataFrame(out))


def seeds_of(slopes, count=3, **words):
    return {seed: trajectory(slopes, seed=seed, **words) for seed in range(count)}


# -- curves ----------------------------------------------------------------------------------


def test_a_curve_is_the_mean_over_probes_against_rows_per_pair():
    """By pandas, without the module: levels, epochs, the point where DPO begins; an SFT pass on two
    rows a pair is two epochs of the pairs."""
    before = seeds_of({"chosen": 0.5}, steps=(0, 8, 20), rows=80)
    after = seeds_of({"chosen": -0.25}, steps=(0, 10, 30), rows=40)
    found = curves.curve([before, after], "logp", "chosen")
    np.testing.assert_allclose(found.x, [0, 0.8, 2, 2, 3, 5])
    assert found.turns == (2.0,) and found.by_epoch
    both = [pd.concat(runs.values()) for runs in (before, after)]
    wanted = [t[t["response_type"] == "chosen"].groupby("step")["logp"].mean() for t in both]
    np.testing.assert_allclose(found.level, np.concatenate(wanted))
    np.testing.assert_allclose(found.change[:3], [0, 4, 10])


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5))
def test_the_band_over_seeds_is_the_t_interval_of_the_change(slopes):
    """Seeds that start far apart but move alike have a narrow band; its half-width is t·s/√n with
    scipy-free quantiles of the books."""
    quantile = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645}[len(slopes)]
    runs = {s: trajectory({"chosen": slope}, seed=s, kinds=["chosen"]) for s, slope in
            enumerate(slopes)}  # fmt: skip
    found = curves.curve([runs], "logp", "chosen")
    half = quantile * np.std(slopes, ddof=1) * np.array([0, 10, 20]) / np.sqrt(len(slopes))
    np.testing.assert_allclose(found.high - found.level, half, atol=1e-4)
    np.testing.assert_allclose(found.level - found.low, half, atol=1e-4)


def test_the_band_of_one_seed_is_over_examples_and_covers():
    """Of 200 samples of 30 examples, the bootstrap's interval holds the true mean change in about
    95%; and it starts at zero width although levels differ."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        moved = np.cumsum(rng.normal(-1, 3, (1, 3, 30)), axis=1) * [[[0], [1], [1]]]
        low, high = curves.band(moved)
        assert low[0] == high[0] == 0
        held += low[2] <= -3 <= high[2]
    assert 0.88 <= held / 200 <= 0.98


def test_published_means_have_no_band_and_unknown_updates_are_counted():
    table = trajectory({"chosen": 1.0}, examples=1).assign(example_id=None, evaluation=0)
    table["evaluation"] = table["step"] // 10
    found = curves.curve([{0: table}], "logp", "chosen")
    assert np.isnan(found.low).all() and np.isnan(found.high).all() and found.by_epoch
    unknown = table.assign(step=pd.NA, examples=pd.NA, epoch=np.nan)
    found = curves.curve([{0: inputs.curve_columns(unknown)}], "logp", "chosen")
    assert found.x.tolist() == [0, 1, 2] and not found.by_epoch
    assert curves.curve([{0: table.assign(logp=np.nan)}], "logp", "chosen") is None
    assert curves.curve([{0: table}], "logp", "another") is None


def test_examples_that_lack_a_type_and_means_of_several():
    """A missing response is left out, not read as zero; several types are averaged per example."""
    table = trajectory({"irr_test": 1.0, "irr_hum": 3.0})
    gone = table[~((table["response_type"] == "irr_hum") & (table["example_id"] == "e0"))]
    kinds = ("irr_test", "irr_hum")
    found = curves.curve([{0: gone}], "logp", kinds)
    assert found.change[-1] == pytest.approx((3 * 40 + 20) / 4)
    assert curves.curve([{0: table}], "logp", kinds).change[-1] == pytest.approx(40)
    two = {0: table, 1: trajectory({}, steps=(0, 10))}
    with pytest.raises(InputError, match="differ in their evaluations"):
        curves.curve([two], "logp", "chosen")


# -- figures ---------------------------------------------------------------------------------


def texts(figure):
    return [t.get_text() for t in figure.findobj(plt.Text) if t.get_text()]


def drawn_lines(axes):
    """(x, y) of the curves of a panel, without the lines that mark zero or the start of DPO."""
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in lines]


def test_sft_draws_bells_with_marks_and_the_heat_map():
    """The curve on the axes is the planted parabola, its mark stands at its top; the heat map shows
    the definition, faint where the interval holds zero."""
    runs = seeds_of({"rejected": 1.0, "chosen": 2.0}, steps=range(0, 41, 4), bend=0.025)
    then = seeds_of({"rejected": -1.0})
    heat = pd.DataFrame({"update": ["chosen", "chosen", "dpo", "dpo", "chosen"],
        "observed": ["chosen", "rejected", "chosen", "rejected", "chosen"],
        "definition": ["change"] * 4 + ["as_published"], "value": [9.0, 1.5, 0.2, -7.0, 99.0],
        "low": [8, 1, -1, -8, 98], "high": [10, 2, 1, -6, 100], "seeds": 3})  # fmt: skip
    figure = sft.draw(STUDY, {"sft": [runs], "then": [runs, then]}, heat)
    panel = figure.axes[0]
    (x, y) = drawn_lines(panel)[3]  # y⁻
    steps = np.arange(0, 41, 4)
    np.testing.assert_allclose(x, 4 * steps / 40)
    np.testing.assert_allclose(y, steps - 0.025 * steps**2, atol=1e-9)
    marks = [line for line in panel.get_lines() if line.get_marker() == "v"]
    assert marks[3].get_xdata()[0] == 2.0 and marks[0].get_xdata()[0] == 4.0
    words = texts(figure)
    assert {"+9.0", "+1.5", "−7.0", "+0.2", "DPO"} <= set(words) and "+99.0" not in words
    hatched = [p for p in figure.findobj(plt.Polygon) if p.get_hatch()]
    assert len(hatched) == 1 and tuple(hatched[0].get_xy()[0]) == (1, 0)
    mesh = figure.axes[-1].collections[0]
    blue, red = mesh.cmap(mesh.norm(9.0)), mesh.cmap(mesh.norm(-7.0))
    assert blue[2] > blue[0] and red[0] > red[2]
    assert mesh.norm(0.0) == pytest.approx(0.5)
    assert not any("hatched" in word for word in texts(sft.draw(STUDY, {"sft": [runs],
                   "then": [runs, then]})))  # fmt: skip
    plt.close("all")


def test_dpo_draws_both_greedy_curves():
    """Panel 5: the corrected one solid, that along shuffled words dashed and named as published."""
    slopes = {("chosen", "logp_argmax"): 0.5, ("random_nonhum", "logp_argmax"): 0.75}
    figure = dpo.draw(STUDY, {"dpo": [seeds_of(slopes)]})
    panel = figure.axes[4]
    by_colour = {line.get_color(): line for line in panel.get_lines() if len(line.get_xdata()) == 3}
    solid, dashed = by_colour[style.GREEDY], by_colour[curves.GREEDY_PUBLISHED.colour]
    np.testing.assert_allclose(solid.get_ydata(), [0, 5, 10], atol=1e-9)
    np.testing.assert_allclose(dashed.get_ydata(), [0, 7.5, 15], atol=1e-9)
    assert solid.get_linestyle() == "-" and dashed.get_linestyle() == "--"
    assert any("as published" in word for word in texts(figure))
    assert not any("{" in t or "nan" in t for t in texts(figure) if "$" not in t)
    plt.close("all")


def test_extend_counts_from_the_start_of_dpo():
    """Extend's two rows a pair begin twice as far to the left; labels give the change under DPO."""
    runs = {}
    for role, (rows, slope) in {"baseline": (40, -0.5), "extend": (80, -0.25)}.items():
        steps = (0, rows // 4, rows // 2)  # two passes
        before = seeds_of({"chosen": 0.5}, steps=steps, rows=rows)
        runs[role] = [before, seeds_of({"chosen": slope})]
    figure = extend.draw(STUDY, runs)
    spans = [x[[0, -1]].tolist() for x, _ in drawn_lines(figure.axes[0])]
    assert spans == [[-2.0, 2.0], [-4.0, 2.0]]
    words = texts(figure)
    assert "−10.0" in words and "−5.0" in words
    assert not any("twin" in word for word in words)
    plt.close("all")


def test_sft_then_dpo_orders_by_sft_and_reads_equal_margins():
    """Below: each run after as many updates as the shorter one has, and where it first has the
    smallest final margin (20 of 20 and 60 nats)."""
    runs = {"none": seeds_of({"rejected": -1.0}),
            "long": seeds_of({"rejected": -2.0}, steps=(0, 10, 20, 30))}  # fmt: skip
    study = {**STUDY, "sft_epochs": {"long": 6.0, "none": 0.0}}
    figure = sft_then_dpo.draw(study, runs)
    bottom = figure.axes[5 + 1]
    assert [t.get_text() for t in bottom.get_xticklabels()] == ["0", "6"]
    values = [container.lines[0].get_ydata().tolist() for container in bottom.containers]
    np.testing.assert_allclose(values, [[-20, -40], [-20, -20]])
    plt.close("all")


def test_the_other_figures_draw_a_row_each(tmp_path):
    """Models, data sets, one seed; a run that knows y⁺ alone says so in the other panels; equal
    inputs make equal PDFs."""
    runs = seeds_of({"chosen": 0.2})
    few = {0: trajectory({"chosen": 0.2}, kinds=["chosen"])}
    for module, panels in ((sft_models, 4), (dpo_models, 3), (rephrase, 4)):
        figure = module.draw(STUDY, {"one": [runs], "two": [few]})
        assert len(figure.axes) == 2 * panels
        assert curves.MISSING in texts(figure) or module is not sft_models
        plt.close("all")
    for name in ("a", "b"):
        style.save(rephrase.draw(STUDY, {"two": [few]}), [tmp_path / f"{name}.pdf"])
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_pipelines_say_what_the_config_says():
    """Every box of the study's own chains, with rows, epochs and rate."""
    study = Study(load_config([ROOT / "config.yaml"]))
    runs = study.config["figures"]["pipelines"]["runs"]
    chains = {role: study.chain(run) for role, run in runs.items()}
    figure = pipelines.draw({**STUDY, "chains": chains, "specs": study.runs})
    words = texts(figure)
    for run in ("sft", "sft-extend", "sft-matched", "sft-irrelevant"):
        spec = study.runs[run]
        box = next(word for word in words if word.endswith(f"\n{run}"))
        per_pair = 2 if spec["target"] in ("extend", "irrelevant") else 1
        assert f"epochs {spec['epochs']:g} (rows per pair: {spec['epochs'] * per_pair:g})" in box
        assert f"lr {spec['lr']:g}" in box
    plt.close("all")


def test_figures_draw_without_torch(tmp_path):
    """draw_sft in a process where torch and transformers cannot be imported, on a results folder;
    the parent of ``run@epoch`` is cut there; a missing trajectory is one clear line."""
    place = tmp_path / "runs/toyworld/toy-neox"
    for run in ("sft-long", "dpo"):
        (place / run / "seed0").mkdir(parents=True)
        table = trajectory({"chosen": 0.1}, steps=range(0, 61, 5))
        table.to_parquet(place / run / "seed0/trajectory.parquet")
    study = {**STUDY, "seeds": [0], "datasets": ["toyworld"], "models": ["toy-neox"],
             "chains": {"sft": [["sft-long", None]],
                        "then": [["sft-long", "2"], ["dpo", None]]}}  # fmt: skip
    (runs,) = inputs.chains(str(tmp_path), study).values()
    assert runs["then"][0][0]["epoch"].max() == 2.0 and runs["sft"][0][0]["epoch"].max() == 6.0
    assert curves.curve(runs["then"], "logp", "chosen").turns == (2.0,)
    scripts = [path.stem for path in (ROOT / "workflow_scripts").glob("draw_*.py")]
    block = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.path[:0] = ['.', 'workflow_scripts']\n"
    )
    code = block + "import " + ", ".join(scripts) + "\ndraw_sft.main()"
    out = tmp_path / "sft.png"
    words = ["--study", json.dumps(study), "--results", str(tmp_path), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0 and out.stat().st_size > 1e4, done.stderr
    (place / "dpo/seed0/trajectory.parquet").unlink()
    with pytest.raises(InputError, match=r"dpo/seed0/trajectory.parquet: no such file"):
        inputs.chains(str(tmp_path), study)


# -- published runs --------------------------------------------------------------------------

# paper.md 6.4 and 6.2: response type, column, first and last level as published.
PUBLISHED = {
    "extend_sft_qwen18_observe": [
        ("chosen", "logp", -122.8, -79.2), ("rejected", "logp", -97.1, -60.6),
        ("irr_train", "logp", -164.5, -141.6), ("random_nonhum", "logp_argmax", -128.8, -102.9)],
    "prob_pythia410m_dpo": [
        ("chosen", "logp", -152.0, -146.3), ("rejected", "logp", -121.4, -197.6),
        ("irr_train", "logp", -193.4, -223.0), ("chosen_gptsemantic", "logp", -155.9, -187.9),
        ("random_permute", "logp", -401.4, -491.5),
        ("random_nonhum", "logp_argmax", -113.5, -72.3)],
    "verifyargmax_pythia1b_dpo_ep10_chosen": [("chosen", "logp", -132.3, -139.0),
        ("rejected", "logp", -103.65, -291.8), ("random_nonhum", "logp_argmax", -110.3, -82.5)],
    "pythia410m_baseline_dpo_checkbug_5e7": [("chosen", "logp", -152.0, -156.2),
        ("chosen", "logp_argmax", -61.6, -41.2)],
    "pythia410_baseline_sft_verify_argmax_bug": [("chosen", "logp", -152.0, -92.4),
        ("chosen", "logp_argmax", -61.6, -44.5)],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_curves_have_the_published_numbers(name):
    """What the axes hold is what the papers' files say, to the digit printed in their summary."""
    if not RUNS.is_dir():
        pytest.skip(f"published runs are not here: {RUNS}")
    runs = [{0: inputs.curve_columns(import_run(RUNS / name))}]
    for kind, column, first, last in PUBLISHED[name]:
        found = curves.curve(runs, column, kind)
        ends = found.level[0], found.level[-1]
        assert ends == pytest.approx((first, last), abs=0.051), (kind, column)
    module = dpo_models if "dpo" in name else sft_models
    figure = module.draw(STUDY, {name: runs})
    ends = np.array([y[-1] for axis in figure.axes for _, y in drawn_lines(axis)])
    for kind, _, first, last in PUBLISHED[name]:
        if kind != "random_permute":  # in no panel of figures/dpo
            assert np.abs(ends - (last - first)).min() < 0.11, kind
    greedy = [line for axis in figure.axes for line in axis.get_lines() if line.get_color() ==
              curves.GREEDY_PUBLISHED.colour]  # fmt: skip
    assert bool(greedy) == any(
        k == "random_nonhum" for k, c, *_ in PUBLISHED[name] if "argmax" in c
    )
    plt.close("all")


def test_published_runs_are_told_apart_by_what_they_trained(tmp_path):
    """SFT and DPO figures take the known runs of their kind; an unknown folder is in both."""
    for name in ("prob_pythia410m_dpo", "sparse_dpo_qwen18_ep6", "base_sft_qwen18_ep8", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prob_train_metrics.json").write_text("{}\n")
    study = Study({**load_config([ROOT / "config.yaml"]), "published": str(tmp_path)})
    assert study.published_of("sft") == ["base_sft_qwen18_ep8", "mine"]
    assert study.published_of("dpo") == ["mine", "prob_pythia410m_dpo", "sparse_dpo_qwen18_ep6"]


# -- runs and models -------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(2, 9), st.integers(0, 3))
def test_irrelevant_rows_are_of_other_conversations(tiny, seed, groups, more):
    """Per pair y⁺ and another conversation's y⁺, fixed by the seed, used evenly."""
    table = pd.DataFrame([
        {"split": "train", "example_id": f"{g}-{n}", "rejected": " no",
         "prompt": f"\n\nHuman: question {g}" + f"\n\nAssistant: so\n\nHuman: and {n}" * bool(n)
         + "\n\nAssistant:", "chosen": f" answer {g} {n}"}
        for g in range(groups) for n in range(1 + more * (g == 0))
    ])  # fmt: skip
    codec = Codec(tiny[1], 256, 128)
    spec = run_spec("sft", target="irrelevant")
    rows = training_rows(table, codec, spec, seed, None)
    assert rows.reference is None and len(rows) == 2 * len(table)
    read = [tiny[1].decode(tree.responses[0][:-1]) for tree in rows.trees]
    assert read[::2] == table["chosen"].tolist()
    for own, other in zip(read[::2], read[1::2], strict=True):
        assert other.split()[1] != own.split()[1] and other in read[::2]
    for number, tree in enumerate(rows.trees):
        assert tree.prompt == codec.prompt(table["prompt"][number // 2], "it")
    again = training_rows(table, codec, spec, seed, None)
    assert [t.responses for t in again.trees] == [t.responses for t in rows.trees]
    if more == 0:  # nobody stands in the way: at most one response is left over at the end
        assert len(set(read[1::2])) >= groups - 1


def test_seeds_draw_different_irrelevant_responses(tiny, toy_pairs):
    spec, codec = run_spec("sft", target="irrelevant"), Codec(tiny[1], 256, 128)
    drawn = [training_rows(toy_pairs, codec, spec, seed, None).trees[1::2] for seed in range(4)]
    assert len({str([tree.responses for tree in trees]) for trees in drawn}) == 4


def study_with(**changes):
    config = load_config([ROOT / "config.yaml"])
    for path, value in changes.items():
        node = config
        *keys, last = path.split("__")
        for key in keys:
            node = node[key.replace("_", "-") if key not in node else key]
        node[last] = value
    return Study(config)


def test_irrelevant_rows_have_no_reference_table():
    """A loss with a reference scores such rows in the run: no table of pairs holds them."""
    run = {"algorithm": "npo", "init": "sft", "epochs": 1, "lr": 1e-4, "target": "irrelevant"}
    study = study_with(runs__mine=run)
    assert not study.needs_reference("mine")
    assert study_with(runs__mine={**run, "target": "chosen"}).needs_reference("mine")
    with pytest.raises(InputError, match="expected one of chosen, rejected, extend, irrelevant"):
        study_with(runs__mine={**run, "target": "nonsense"})


def test_chains_follow_the_graph_of_runs():
    study = study_with()
    assert study.chain("dpo-short") == [("sft-long", "1"), ("dpo-short", None)]
    assert study.chain("sft") == [("sft", None)]
    wanted = {"dpo-from-base": 0, "dpo-short": 1, "dpo": 2, "dpo-long": 6}
    assert {run: study.sft_epochs(run) for run in wanted} == wanted


@pytest.mark.parametrize(("path", "value", "message"), [
    ("figures__sft__runs__then", "dpo-from-base", "figures.sft.runs.then: 'dpo-from-base'"),
    ("figures__extend__runs__matched", "sft", "figures.extend.runs.matched: 'sft'"),
    ("figures__sft_models__models", ["toy-neox", "mine"], "figures.sft_models.models: 'mine'"),
    ("figures__rephrase__datasets", ["mine"], "figures.rephrase.datasets: 'mine'"),
    ("figures__sft_then_dpo__runs", ["mine"], "figures.sft_then_dpo.runs: 'mine'"),
    ("models__toy-llama__architecture", "mamba", "models.toy-llama.architecture: 'mamba'"),
])  # fmt: skip
def test_wrong_figures_are_one_line(path, value, message):
    with pytest.raises(InputError, match=message) as error:
        study_with(**{path: value})
    assert "\n" not in str(error.value) and "expected" in str(error.value)


SMALL = {"architecture": "gpt_neox", "vocab_size": 300, "hidden_size": 24, "layers": 1, "heads": 2,
         "updates": 3, "batch_size": 2, "sequence_length": 16, "lr": 1e-2,
         "max_length": 64}  # fmt: skip


def test_gpt_neox_is_built_as_before():
    """Bit for bit the weights and the configuration that GPTNeoXConfig gives."""
    tokenizer = models.train_tokenizer(["some words and more words"] * 9, 300, 64)
    end = tokenizer.eos_token_id
    torch.manual_seed(3)
    before = GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=96, max_position_embeddings=64, bos_token_id=end, eos_token_id=end,
        use_cache=False,
    ))  # fmt: skip
    torch.manual_seed(3)
    now = models.build(SMALL, tokenizer)
    assert now.config.to_dict() == before.config.to_dict() and type(now) is type(before)
    for (name, one), (_, other) in zip(
        now.state_dict().items(), before.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_other_architectures_train_save_and_score(kind, tmp_path):
    """As many weights as GPT-NeoX to a tenth; loss falls; loads again, and is scored packed."""
    from learning_dynamics.scoring import Engine

    corpus = ["some words and more words of this and that"] * 40
    spec = {**SMALL, "architecture": kind, "updates": 30}
    model, tokenizer, report = models.pretrain(corpus, spec, 0)
    assert model.config.model_type == kind and report["loss_last"] < report["loss_first"]
    assert model.config.num_key_value_heads == 2 and model.dtype == torch.float32
    sizes = [sum(p.numel() for n, p in m.named_parameters() if "mlp" in n) for m in
             (model, models.build(SMALL, tokenizer))]  # fmt: skip
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    models.save(model, tokenizer, tmp_path)
    loaded, _ = models.load(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    assert Engine(copy.deepcopy(loaded)).shares_prompts

"""From models and trajectories of other trainings to the pipeline's tables, figures and claims."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from learning_dynamics import __main__ as command
from learning_dynamics import models, published, trajectory
from learning_dynamics.claims import imported, tables
from learning_dynamics.claims.inference import NOT_TESTABLE
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table, write_json, write_table
from learning_dynamics.known import facts_of, known_runs
from learning_dynamics.observe import codec_of, facts, read_probes
from learning_dynamics.own_runs import import_trajectory
from learning_dynamics.scoring import METRICS, Engine
from learning_dynamics.study import Study, load_config
from tests.conftest import ROOT

HUMAN = "\n\nHuman: {}\n\nAssistant:"


@pytest.fixture(scope="module")
def place(tiny, toy_pairs, tmp_path_factory):
    """A folder with a probing set and three checkpoints of a run."""
    folder = tmp_path_factory.mktemp("own")
    probed = toy_pairs.iloc[[0, 1, 12]]
    both = [probed.assign(response_type=k, response=probed[k]) for k in ("chosen", "rejected")]
    pd.concat(both).to_parquet(folder / "probe.parquet")
    model = deepcopy(tiny[0])
    torch.manual_seed(4)
    for step in (0, 20, 100):
        models.save(model, tiny[1], folder / f"checkpoint-{step}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    return folder


def call(*words):
    """The command's words, as typed."""
    sys.argv = ["learning_dynamics", "score", *map(str, words)]
    command.main()


# -- saved models --------------------------------------------------------------------------------


def test_saved_checkpoints_become_a_trajectory(place, tiny, monkeypatch):
    """Typed as in the README; the numbers are those of the pipeline's scorer on the same models."""
    checkpoints = [place / f"checkpoint-{step}" for step in (0, 20, 100)]
    typed = sorted(map(str, checkpoints))  # as a shell expands checkpoint-*
    assert typed[1].endswith("100")
    out = place / "run" / "trajectory.parquet"
    words = [*typed, place / "probe.parquet", "--out", out, "--role", "sft", "--model-name",
             "mine", "--batch-size", "4", "--rows", "80"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "learning_dynamics", "score", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    table = read_table(out, trajectory.COLUMNS)
    assert pq.read_schema(out).equals(trajectory.SCHEMA)
    assert table["step"].unique().tolist() == [0, 20, 100]
    assert table["examples"].unique().tolist() == [0, 80, 400]
    assert table["epoch"].unique().tolist() == [0, 1, 5]
    probes = read_probes(place / "probe.parquet")
    trees = trajectory.probe_trees(probes, codec_of(tiny[1], tiny[0].config))
    scorer = trees.scorer(500)
    for step, folder in zip((0, 20, 100), checkpoints, strict=True):
        truth = pd.DataFrame(scorer(Engine(models.load(folder)[0])))[METRICS]
        mine = table[table["step"] == step][METRICS].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, truth, check_exact=False, rtol=1e-6)
    assert table.groupby("step")["logp"].mean().nunique() == 3
    known = facts_of(out.parent)
    assert (known["role"], known["model"], known["group"]) == ("sft", "mine", "probes")


def test_what_is_not_known_is_null(place, monkeypatch):
    """Without counts: steps alone, given or numbered; other lengths cut the prompts."""
    monkeypatch.setattr(sys, "argv", [])
    out = place / "bare" / "trajectory.parquet"
    two = [place / "checkpoint-20", place / "checkpoint-0"]  # names do not rise: numbers are given
    call(*two, place / "probe.parquet", "--out", out, "--steps", 3, 7)
    table = read_table(out, trajectory.COLUMNS)
    assert table["step"].unique().tolist() == [3, 7]
    assert table["examples"].isna().all() and table["epoch"].isna().all()
    for names, steps in ((["a/checkpoint-20"], [20]), (["base"], [0]), (["m-1", "m-2"], [0, 1]),
                         (["base-2b", "checkpoint-20", "checkpoint-5/"], [0, 20, 5])):  # fmt: skip
        assert command.steps_of([Path(name) for name in names]) == steps
    call(place / "checkpoint-0", place / "probe.parquet", "--out", out, "--max-prompt-length", 3)
    short = read_table(out, trajectory.COLUMNS)
    assert short["step"].unique().tolist() == [0]
    assert not np.allclose(short["logp"], table.loc[table["step"] == 7, "logp"], atol=0.1)


@pytest.mark.parametrize(("words", "expected"), [
    (["{0}", "{20}", "--steps", "5", "4"], r"steps 5 4 for 2 models; expected one for each"),
    (["{0}", "--steps", "5", "6"], r"steps 5 6 for 1 models"),
    (["{20}", "{20}"], r"steps 20 20 for 2 models"),
    (["nowhere"], r"nowhere: no config\.json"),
    (["{0}", "--rows", "9"], r"--rows: epochs need the rows per update too"),
    (["{0}", "--max-length", "1"], r"max_length = 1: expected"),
    (["{0}", "--end-of-turn", "<|im_end|>"], r"end_of_turn = '<\|im_end\|>': not a token"),
])  # fmt: skip
def test_wrong_words(words, expected, place, monkeypatch, tmp_path):
    """One line that says what is wrong; nothing is written."""
    monkeypatch.setattr(sys, "argv", [])
    names = {f"{{{step}}}": place / f"checkpoint-{step}" for step in (0, 20)}
    words = [names.get(word, word) for word in words]
    cut = next((n for n, w in enumerate(words) if str(w).startswith("--")), len(words))
    with pytest.raises(InputError, match=expected):
        call(*words[:cut], place / "probe.parquet", "--out", tmp_path / "t.parquet", *words[cut:])
    assert list(tmp_path.iterdir()) == []


def test_models_of_two_tokenizers_are_no_run(place, toy_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    other = models.train_tokenizer(list(toy_pairs["chosen"]), 300, 512)
    models.save(models.load(place / "checkpoint-0")[0], other, tmp_path / "other")
    with pytest.raises(InputError, match=r"other: its tokenizer reads the probes as other tokens"):
        call(place / "checkpoint-0", tmp_path / "other", place / "probe.parquet", "--out",
             tmp_path / "t.parquet")  # fmt: skip


# -- as imported runs ----------------------------------------------------------------------------


def run_table(rise, seed=0, examples=12):
    """A trajectory of two types at four steps: y⁺ rises by ``rise`` nats a step, y⁻ falls by it."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(4):
        for example in range(examples):
            for kind, sign in (("chosen", 1), ("rejected", -1)):
                logp = -60 + sign * rise * step + 0.3 * rng.normal()
                values = dict.fromkeys(METRICS, 0.5) | {"logp": logp, "logp_argmax": logp + 9}
                rows.append({"step": 10 * step, "examples": 40 * step, "epoch": step / 2,
                             "split": "train", "example_id": f"e{example:02d}",
                             "response_type": kind, "n_tokens": 20, **values})  # fmt: skip
    return pd.DataFrame(rows)[trajectory.COLUMNS]


def write_run(folder, table, **known):
    """A run as the callback leaves it."""
    write_table(folder / "trajectory.parquet", table, trajectory.SCHEMA)
    write_json(folder / "dynamics.json", {"model": "mine", "data": "my data", **known})


def test_facts_name_those_that_continue_a_conversation():
    """The first of each conversation stands for it."""
    prompts = {"a": HUMAN.format("Why?"), "b": HUMAN.format("How?"),
               "c": HUMAN.format("Why?") + " So." + HUMAN.format("And?")}  # fmt: skip
    probes = pd.DataFrame([
        {"split": "train", "example_id": name, "prompt": prompt, "response_type": kind,
         "response": "x"} for name, prompt in prompts.items() for kind in ("chosen", "rejected")
    ])  # fmt: skip
    known = facts(probes, "dpo", "m", "d", 1e-6, 3)
    assert known["conversations"] == {"c": "a"}
    assert known["seed"] == 3 and known["lr"] == 1e-6


def test_import(tmp_path):
    """Evaluations are numbered, conversations become a column; and it can be written and read."""
    write_run(tmp_path / "one", run_table(1.0), role="sft", conversations={"e03": "e01"})
    table = import_trajectory(tmp_path / "one")
    write_table(tmp_path / "out.parquet", table, published.SCHEMA)
    table = read_table(tmp_path / "out.parquet", published.SCHEMA.names)
    assert table["evaluation"].tolist() == (table["step"] // 10).tolist()
    own = dict(zip(table["example_id"], table["conversation"], strict=True))
    assert own.pop("e03") == "e01" and all(name == value for name, value in own.items())
    assert published.summary({"one": table})["evaluations"].unique().tolist() == [4]
    twice = pd.concat([run_table(1.0), run_table(1.0).head(1)])
    write_table(tmp_path / "two" / "trajectory.parquet", twice, trajectory.SCHEMA)
    with pytest.raises(InputError, match=r"two.trajectory\.parquet: \{'step': 0.*one row for each"):
        import_trajectory(tmp_path / "two")


@pytest.mark.parametrize(("content", "expected"), [
    (b"[1]", "not a JSON object"), (b'{"role": ', "not a JSON object"),
    (b'{"role": 3}', "role is '3'; expected a short text"),
    (b'{"model": "a\\nb"}', "model is"), (b'{"data": ""}', "data is ''"),
    (b'{"seed": true}', "seed is 'True'; expected a whole number"),
    (b'{"lr": "fast"}', "lr is 'fast'; expected a number"),
    (b'{"conversations": {"a": 1}}', "conversations is"),
])  # fmt: skip
def test_facts_that_are_wrong(content, expected, tmp_path):
    (tmp_path / "dynamics.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dynamics\.json: .*") as raised:
        facts_of(tmp_path)
    assert expected in str(raised.value)


def test_claims_of_own_runs(tmp_path):
    """An SFT run that raises y⁺ supports C1, with an interval over three seeds; runs without a role
    are not judged; the rates are the runs'. Another model beside it is compared with, at the seed
    that both have."""
    for seed in range(3):
        write_run(tmp_path / f"sft{seed}", run_table(2.0, seed), role="sft", seed=seed, lr=3e-4)
    write_run(tmp_path / "kto", run_table(-2.0), algorithm="kto")
    names = ["kto", "sft0", "sft1", "sft2"]

    def judged(names):
        runs = {name: import_trajectory(tmp_path / name) for name in names}
        known = {name: facts_of(tmp_path / name) for name in names}
        columns = imported.columns(runs, known)
        return columns, tables(columns)[0].set_index(["model", "claim"])

    (column,), claims = judged(names)
    assert (column.origin, column.dataset, column.model) == ("own runs", "my data", "mine")
    row = claims.loc["mine", "C1"]
    assert (row["verdict"], row["seeds"], row["dose"]) == ("supported", 3, "0.0003 × 30")
    assert row["interval"] == "over seeds and examples"
    assert claims.loc[("mine", "S1"), "verdict"] == NOT_TESTABLE
    write_run(tmp_path / "other", run_table(-2.0), role="sft", seed=1, model="peer")
    columns, claims = judged([*names, "other"])
    assert [one.model for one in columns] == ["mine", "peer"]
    assert claims.loc[("peer", "C1"), "verdict"] == "contradicted"
    assert claims.loc[("mine", "C1"), "seeds"] == 1  # compared at equal seeds
    assert claims.loc[("peer", "C1"), "dose"] == "? × 30"


def test_conversations_count_once(tmp_path):
    """The same numbers with every example twice, as two rows of one conversation: the interval is
    that of half as many."""
    table = run_table(2.0)
    copy = table.assign(example_id=table["example_id"] + "b")
    twins = {f"e{n:02d}b": f"e{n:02d}" for n in range(12)}
    write_run(tmp_path / "once", table, role="sft")
    write_run(tmp_path / "twice", pd.concat([table, copy]), role="sft", conversations=twins)
    width = {}
    for name in ("once", "twice"):
        runs = {name: import_trajectory(tmp_path / name)}
        found = tables(imported.columns(runs, {name: facts_of(tmp_path / name)}))[0]
        row = found.set_index("claim").loc["C1"]
        width[name] = row["high"] - row["low"]
    assert width["twice"] == pytest.approx(width["once"], rel=1e-9)


def test_a_study_finds_own_runs_beside_published_ones(tmp_path):
    """By name and by what they trained; a folder with neither file is none."""
    write_run(tmp_path / "a-dpo", run_table(1.0), role="dpo", algorithm="dpo")
    write_run(tmp_path / "a-kto", run_table(1.0), algorithm="kto")
    write_run(tmp_path / "an-sft", run_table(1.0), algorithm="sft")
    (tmp_path / "bare").mkdir()
    write_table(tmp_path / "bare" / "trajectory.parquet", run_table(1.0), trajectory.SCHEMA)
    (tmp_path / "prob_pythia410m_dpo").mkdir()
    (tmp_path / "prob_pythia410m_dpo" / "prob_train_metrics.json").write_text("{}\n")
    (tmp_path / "empty").mkdir()
    base = load_config([ROOT / "config.yaml", ROOT / "studies/own.yaml"])
    study = Study({**base, "published": str(tmp_path)})
    assert list(study.published_runs()) == ["a-dpo", "a-kto", "an-sft", "bare",
                                            "prob_pythia410m_dpo"]  # fmt: skip
    known = study.published_facts()
    assert known["prob_pythia410m_dpo"]["role"] == known_runs()["prob_pythia410m_dpo"]["role"]
    assert known["a-dpo"] == {"own": True, "group": "my data", "model": "mine", "role": "dpo",
                              "algorithm": "dpo"}  # fmt: skip
    assert study.published_of("dpo") == ["a-dpo", "a-kto", "bare", "prob_pythia410m_dpo"]
    assert study.published_of("sft") == ["a-kto", "an-sft", "bare"]
    with pytest.raises(InputError, match=r"claims\.evaluate: .*make PUBLISHED=folder"):
        Study(load_config([ROOT / "config.yaml", ROOT / "studies/own.yaml"])).published_runs()


@pytest.mark.pipeline
def test_own_runs_to_figures_through_snakemake(tmp_path):
    """As in the README: claims, a figure and the table of two runs, and nothing of the study's."""
    write_run(tmp_path / "runs" / "my-sft", run_table(2.0), role="sft", algorithm="sft", lr=1e-5)
    write_run(tmp_path / "runs" / "my-dpo", run_table(1.0), role="dpo", algorithm="dpo", lr=1e-6)
    wanted = ["figures/claims.pdf", "figures/published-sft.pdf", "tables/published.csv"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "learning_dynamics.warm", "snakemake", "-s",
         str(ROOT / "Snakefile"), "-d", str(tmp_path), "--cores", "2",
         "--configfile", str(ROOT / "studies/own.yaml"), "--config",
         f"published={tmp_path / 'runs'}", "--", *wanted],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / name).stat().st_size for name in wanted)
    results = tmp_path / "results/own"
    assert not (results / "runs").exists() and not (results / "models").exists()
    claims = pd.read_parquet(results / "claims.parquet")
    assert set(claims["origin"]) == {"own runs"}
    assert claims.set_index("claim").loc["C1", "verdict"] == "supported"
    assert set(pd.read_csv(tmp_path / "tables/published.csv")["run"]) == {"my-sft", "my-dpo"}
    said = (results / "claims.md").read_text()
    assert "my data, mine (own runs)" in said and "1e-05 × 30" in said
    assert json.loads((tmp_path / "runs/my-sft/dynamics.json").read_text())["role"] == "sft"

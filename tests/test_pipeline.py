"""The real pipeline: the CI study through real Snakemake, to every output, killed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from learning_dynamics import token_trajectory, warm
from learning_dynamics.claims import CLAIMS
from learning_dynamics.probe import RESPONSE_TYPES

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "studies" / "ci.yaml"
RUNS = Path("results/ci/runs/toyworld/toy-neox")
pytestmark = pytest.mark.pipeline


def command(folder: Path, *words: str, config: list[Path] = [STUDY]) -> list[str]:  # noqa: B006
    """A Snakemake command line on the CI study in ``folder``."""
    base = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder)]
    return [*base, "--configfile", *map(str, config), "--cores", "2", *words]


def environment() -> dict[str, str]:
    """Jobs call ``python``: the one that runs the tests, warm."""
    path = f"{warm.CLIENT}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def snakemake(folder: Path, *words: str, config: list[Path] = [STUDY]) -> str:  # noqa: B006
    """Run it; its output. Fails with that output when Snakemake does."""
    done = subprocess.run(
        command(folder, *words, config=config), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules_of(output: str) -> set[str]:
    """The rules that a dry run would execute, from its table of job statistics."""
    lines = output.split("Job stats:")[-1].splitlines()
    pairs = [line.split() for line in lines]
    return {words[0] for words in pairs if len(words) == 2 and words[1].isdigit()} - {"total"}


@contextmanager
def warm_jobs(interpreter: str = sys.executable):
    """Jobs start as they do under make, forked from a process of ``interpreter``."""
    with pytest.MonkeyPatch.context() as patch, warm.listening(interpreter) as variables:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", autouse=True)
def start_warm():
    """All jobs of these tests."""
    with warm_jobs():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The CI study, built from nothing to every output."""
    folder = tmp_path_factory.mktemp("study")
    snakemake(folder)
    return folder


def test_every_output_is_there_and_whole(finished):
    """Figures, tables, and trajectories with every type, before the first update and after the
    last, without a missing value."""
    for figure in yaml.safe_load((ROOT / "report/captions.yaml").read_text())["figures"]:
        if figure.startswith("published"):
            continue
        name = f"figures/{figure}"
        assert (finished / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
        assert (finished / f"{name}.png").stat().st_size > 10_000
    paths = sorted((finished / RUNS).glob("*/seed*/trajectory.parquet"))
    assert len(paths) == 35 + 19  # algorithms, forget and forks have one seed
    for path in paths:
        table = pd.read_parquet(path)
        facts = json.loads((path.parent / "run.json").read_text())
        assert table["response_type"].nunique() == 13
        assert {0, facts["updates"]} <= set(table["step"])
        assert not table.isna().any().any()
        assert not (path.parent / ".resume").exists()
    followed = pd.read_csv(finished / "tables/influence_along.csv")
    assert set(followed["role"]) == {"sft", "dpo", "extend"} and set(followed["updates"]) == {1, 2}
    assert set(followed["step"]) == {"2", "4", "all"} and (followed["seeds"] == 2).all()
    verdicts = pd.read_csv(finished / "tables/verdicts.csv")
    assert set(verdicts["algorithm"]) == {"dpo", "kto"}
    claims = pd.read_parquet(finished / "results/ci/claims.parquet")
    assert claims["claim"].nunique() == len(claims) == len(CLAIMS)
    tested = claims[claims["verdict"] != "not testable"]
    assert len(tested) >= 20 and not tested[["value", "low", "high"]].isna().any().any()
    parts = pd.read_csv(finished / "tables/claims.csv")
    assert set(parts["claim"]) == set(tested["claim"]) and parts["first_order"].notna().any()
    card = pd.read_csv(finished / "tables/probe.csv")
    assert set(card["response_type"]) == set(RESPONSE_TYPES)
    heat = pd.read_csv(finished / "tables/heatmap.csv")
    assert set(heat["update"]) == {"chosen", "rejected", "dpo"} and (heat["seeds"] == 2).all()
    proxies = pd.read_csv(finished / "tables/entk_proxies.csv")
    assert set(proxies["definition"]) == {"as_defined", "as_published"}
    agreement = pd.read_csv(finished / "tables/kernel_agreement.csv")
    assert (agreement["pairs"] == 3 * 13).all() and agreement["spearman"].notna().all()
    rates = pd.read_csv(finished / "tables/winrate.csv")
    assert list(rates["epoch"].unique()) == [0, 0.5, 1] and (rates["n"] > 0).all()
    written = pd.read_csv(finished / "tables/hallucination.csv")
    assert set(written["role"]) == {"sft", "dpo", "extend", "continued", "coinflip"}
    mass = pd.read_csv(finished / "tables/mass.csv")
    assert set(mass["kind"]) == {"dpo", "coinflip", "sft"} and mass["seeds"].max() == 2
    kernel = pd.read_csv(finished / "tables/kernel.csv")
    assert list(kernel["stage"].unique()) == ["base", "sft", "dpo@0.5"]
    assert kernel["update"].nunique() == 13 and kernel["cosine"].abs().max() <= 1
    still = pd.read_csv(finished / "tables/kernel_stability.csv")
    assert still["value"].notna().all() and (still["seeds"] == 2).all()
    tracked = pd.read_csv(finished / "tables/kernel_proxies.csv")
    assert set(tracked["proxy"]) == {"lbk", "sign_delta"} and tracked["value"].notna().all()
    tokens = token_trajectory.read(finished / RUNS / "dpo/seed0/tokens.parquet")
    assert tokens.groupby("step").size().eq(6 * 13).all()
    kept = finished / RUNS / "dpo/seed0/checkpoints"
    assert [path.name for path in kept.glob("[!.]*")] == ["epoch0.5"]
    switches = pd.read_csv(finished / "tables/confounds.csv")
    assert list(switches["switch"].unique()) == ["leading_space", "end_of_text"]


def test_a_switch_changes_what_it_names(finished):
    """Read off the CI study's trajectories: end-of-text moves every level by its own log-prob and
    no change of training; the leading space moves the machine-written types alone."""
    keys = ["split", "example_id", "response_type", "step"]

    def scores(dataset, run="sft"):
        folder = finished / str(RUNS).replace("toyworld", dataset)
        table = pd.read_parquet(folder / run / "seed0" / "trajectory.parquet")
        return table.set_index(keys).sort_index()

    base, ended, spaced = map(scores, ("toyworld", "toyworld+end_of_text",
                                       "toyworld+leading_space"))  # fmt: skip
    longer = base["n_tokens"] < ended["n_tokens"]
    pd.testing.assert_series_equal(
        ended["logp"][longer], (base["logp"] + base["logp_end"])[longer],
        check_names=False, rtol=1e-5,
    )  # fmt: skip
    assert longer.mean() > 0.9
    moved = (spaced["logp"] - base["logp"]).abs().groupby("response_type").max()
    still = {"chosen", "rejected", "irr_train", "irr_test"}
    assert (moved[list(still)] == 0).all()
    assert (moved[["chosen_gptsemantic", "irr_hum", "random_permute"]] > 0.1).all()


def test_a_run_starts_where_its_parent_ended(finished):
    """The start of dpo scores as the end of sft, and its first loss is log 2."""
    for seed in (0, 1):
        keys = ["split", "example_id", "response_type"]
        end = pd.read_parquet(finished / RUNS / f"sft/seed{seed}/trajectory.parquet")
        end = end[end["step"] == end["step"].max()].set_index(keys)["logp"]
        start = pd.read_parquet(finished / RUNS / f"dpo/seed{seed}/trajectory.parquet")
        start = start[start["step"] == 0].set_index(keys)["logp"]
        pd.testing.assert_series_equal(start, end)
        training = pd.read_parquet(finished / RUNS / f"dpo/seed{seed}/training.parquet")
        assert training["loss"].iloc[0] == pytest.approx(0.693147, abs=1e-5)


def test_second_run_and_touched_sources_do_nothing(finished):
    """Nothing to be done, even when every source file has a new modification time."""
    assert "Nothing to be done" in snakemake(finished)
    for path in [*ROOT.glob("learning_dynamics/**/*.py"), *ROOT.glob("workflow_scripts/*.py")]:
        path.touch()
    assert "Nothing to be done" in snakemake(finished)


def test_figures_are_redrawn_without_torch(finished, tmp_path):
    """From tables and trajectories alone, where torch and transformers cannot be imported; a
    deleted figure is the only one that is drawn."""
    server = tmp_path / "python"
    server.write_text(
        f"#!{sys.executable}\nimport runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'accelerate', 'peft'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.argv = sys.argv[2:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    server.chmod(0o755)
    figures = finished / "figures"
    before = {path.name: path.read_bytes() for path in figures.glob("*.pdf")}
    for path in (figures, finished / "results/ci/figures"):
        (path / "squeeze.pdf").unlink()
    assert rules_of(snakemake(finished, "-n")) == {"all", "draw_squeeze", "publish_figure"}
    for path in [*figures.glob("*.p*"), *finished.glob("results/ci/figures/*")]:
        path.unlink()
    with warm_jobs(str(server)):  # beside it, the only other ``python`` is one that fails
        only = {**environment(), "PATH": f"{warm.CLIENT}:{tmp_path}:{environment()['PATH']}"}
        done = subprocess.run(command(finished), capture_output=True, text=True, env=only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name: path.read_bytes() for path in figures.glob("*.pdf")} == before


def test_the_report_has_every_figure_with_its_caption(finished):
    """report.zip holds them, and what report/captions.yaml says of each."""
    snakemake(finished, "--report", "report.zip")
    captions = yaml.safe_load((ROOT / "report/captions.yaml").read_text(encoding="utf-8"))
    with zipfile.ZipFile(finished / "report.zip") as archive:
        pages = b"".join(archive.read(name) for name in archive.namelist()).decode(errors="replace")
    for path in (finished / "figures").glob("*.pdf"):
        assert f"figures/{path.name}" in pages
        assert captions["figures"][path.stem].split(",")[0].split("\n")[0][:30] in pages


def test_a_changed_beta_reruns_only_dpo_and_what_follows(finished, tmp_path):
    """No SFT, no pretraining, no reference but that of dpo's own branches."""
    overlay = tmp_path / "beta.yaml"
    overlay.write_text(yaml.safe_dump({"runs": {"dpo": {"beta": 0.3}}}))
    output = snakemake(finished, "-n", config=[STUDY, overlay])
    assert rules_of(output) == {
        "all", "finetune_dpo_by_token_along", "make_changes", "make_claims", "draw_claims",
        "draw_squeeze", "publish_figure", "publish_table", "make_confounds", "draw_confounds",
        "draw_sft", "draw_dpo", "draw_extend", "draw_dpo_models", "draw_sft_then_dpo",
        "draw_pipelines", "generate_answers", "judge_answers", "make_winrate", "draw_winrate",
        "make_hallucination", "draw_hallucination", "draw_tokens", "make_influence",
        "draw_influence",
        "measure_mutual", "make_kernel", "draw_kernel",
        "score_reference", "finetune_dpo", "make_forks", "draw_forks",  # branches of dpo@0.5
    }  # fmt: skip


def test_the_readmes_loss_trains_as_written(finished, tmp_path):
    """The ten lines and the run of README.md, pasted: its rule runs; an edit of the file retrains
    it and nothing else, a touch nothing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    python = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def " in b)
    overlay, file = tmp_path / "mine.yaml", finished / "my_losses.py"
    overlay.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    file.write_text(python, encoding="utf-8")
    target = f"{RUNS}/my-run/seed0/trajectory.parquet"
    config = [STUDY, overlay]
    snakemake(finished, target, config=config)
    table = pd.read_parquet(finished / target)
    assert table["response_type"].nunique() == 13 and table["step"].max() > 0
    file.touch()
    assert "Nothing to be done" in snakemake(finished, target, "-n", config=config)
    file.write_text(python.replace("beta * gap", "beta * gap * 1.0"), encoding="utf-8")
    assert rules_of(snakemake(finished, target, "-n", config=config)) == {"finetune_mean_dpo"}


def test_two_processes_train_on_what_the_policy_writes(finished, tmp_path):
    """On-policy rows in a run that the workflow launches as two processes."""
    overlay = tmp_path / "online.yaml"
    run = {"algorithm": "online_dpo", "init": "sft", "epochs": 1, "lr": 1e-4}
    overlay.write_text(yaml.safe_dump({"compute": {"processes": 2}, "runs": {"online": run}}))
    folder = RUNS / "online/seed0"
    words = (f"{folder}/trajectory.parquet", "--allowed-rules", "finetune_online_dpo")
    snakemake(finished, *words, "--rerun-triggers", "mtime", config=[STUDY, overlay])
    facts = json.loads((finished / folder / "run.json").read_text())
    assert facts["compute"]["processes"] == 2
    written = pd.read_parquet(finished / folder / "written.parquet")
    assert set(written["row"]) == set(range(24))


@pytest.fixture(scope="module")
def unbroken(finished, tmp_path_factory):
    """A copy of the study whose dpo is longer, Snakemake's words for that run, its config, and the
    run's numbers."""
    folder = tmp_path_factory.mktemp("longer") / "study"
    shutil.copytree(finished, folder, symlinks=True)
    overlay = folder / "long.yaml"
    longer = {"epochs": 40, "probe_every": 30, "influence": {"every": 40}}
    overlay.write_text(yaml.safe_dump({"runs": {"dpo": longer}}))
    target = RUNS / "dpo/seed0/trajectory.parquet"
    words = [str(target), "--allowed-rules", "finetune_dpo_by_token_along"]
    snakemake(folder, *words, config=[STUDY, overlay])
    files = [folder / target, folder / target.with_name("influence.parquet")]
    numbers = {path: path.read_bytes() for path in files}
    training = pd.read_parquet(files[0].with_name("training.parquet"))
    return folder, words, [STUDY, overlay], numbers, training


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_ends_with_the_same_trajectory(unbroken, kill):
    """Killed after a checkpoint and run again: bit for bit the numbers of an unbroken run."""
    folder, words, config, numbers, training = unbroken
    target = Path(words[0])
    assert training["step"].iloc[-1] == 240

    broken = subprocess.Popen(
        command(folder, *words, "--forcerun", words[-1], config=config),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    resume = folder / target.parent / ".resume"
    while not list(resume.glob("update-*/state.json")):
        assert time.monotonic() < deadline and broken.poll() is None
        time.sleep(0.02)
    os.killpg(broken.pid, kill)
    broken.wait()
    time.sleep(1)  # the orphaned job, if any, has the signal too
    assert not (folder / target).exists()
    assert list(resume.glob("update-*"))

    snakemake(folder, *words, "--rerun-incomplete", config=config)
    facts = json.loads((folder / target.parent / "run.json").read_text())
    assert facts["attempts"] == 2
    assert {path: path.read_bytes() for path in numbers} == numbers
    resumed = pd.read_parquet(folder / target.parent / "training.parquet")
    clock = "rows_per_s"
    pd.testing.assert_frame_equal(resumed.drop(columns=clock), training.drop(columns=clock))


def test_dry_runs_as_typed():
    """The default and the paper's study plan; the latter holds nothing of the toy study."""

    def plan(*words: str) -> str:
        typed = [sys.executable, "-m", "snakemake", *words, "--dry-run", "--nolock"]
        done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    plan()
    paper = plan("figures/squeeze.pdf", "--profile", "slurm")
    chain = {"fetch_data_file", "fetch_model", "build_pairs", "build_probes", "finetune_sft",
             "score_reference", "finetune_dpo", "finetune_dpo_by_token", "measure_one_step",
             "draw_squeeze"}  # fmt: skip
    assert chain <= rules_of(paper)
    assert "toy" not in paper
    plan("figures/dose.pdf", "--profile", "local")


def test_linters_are_clean():
    """ruff, snakefmt and snakemake --lint."""
    tools = Path(sys.executable).parent
    for words in (
        [tools / "ruff", "check", "."],
        [tools / "ruff", "format", "--check", "."],
        [tools / "snakefmt", "--check", "Snakefile", "rules"],
        [sys.executable, "-m", "snakemake", "--lint"],
    ):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_ones_own_and_a_model_that_rephrases(tmp_path):
    """A type by a function, one asked of a model of the study; examples that lack a type pass on
    to the trajectory."""
    (tmp_path / "my.py").write_text("def shout(example, rng):\n    return example.chosen.upper()\n")
    overlay = tmp_path / "own.yaml"
    overlay.write_text(
        "datasets: {toyworld: {rephrase: {provider: transformers, model: toy-neox, max_tokens: 12,"
        " attempts: 1}}}\n"
        "probe:\n  own_types:\n    shouted: {function: 'my.py:shout'}\n"
        "    asked: {ask: 'Shorten this: {response}', of: rejected}\n"
        "  types: [chosen, rejected, irr_test, shouted, asked]\n"
    )
    target = RUNS / "sft/seed0/trajectory.parquet"
    snakemake(tmp_path, str(target), config=[STUDY, overlay])
    data = tmp_path / "results/ci/data/toyworld"
    probes = pd.read_parquet(data / "probe.parquet")
    wide = probes.pivot(index="example_id", columns="response_type", values="response")
    assert (wide["shouted"] == wide["chosen"].str.upper()).all()
    asked = pd.read_parquet(data / "rephrases.parquet")
    good = set(asked.loc[asked["status"] == "ok", "example_id"])
    assert len(asked) == 6 and set(asked["response_type"]) == {"asked"}
    scored = pd.read_parquet(tmp_path / target)
    assert set(scored.loc[scored["response_type"] == "asked", "example_id"]) == good
    assert scored["response_type"].nunique() == 4 + bool(good)

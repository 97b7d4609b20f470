"""What jobs ask for on a cluster, profiles, and the places where pins are repeated."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from learning_dynamics.study import Study, load_config
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Keys of a profile that hold rule names.
BY_RULE = ["set-resources", "set-threads", "groups", "set-scatter", "consider-ancient"]


def snakemake(folder: Path, *words: str) -> str:
    typed = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--nolock", *words]
    done = subprocess.run(typed, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def requests(output: str) -> list[tuple[str, dict[str, str]]]:
    """Of every job of a dry run: rule and resources."""
    found = []
    for line in output.partition("Job stats:")[2].splitlines():
        if begun := re.match(r"rule (\w+):", line):
            found.append((begun[1], {}))
        elif line.startswith("    resources:") and found:
            words = line.partition(":")[2].split(", ")
            found[-1][1].update(word.strip().split("=", 1) for word in words)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the profiles, and the example of a site's own copied as it says."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("slurm", "local", "studies"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "slurm/site.example", folder / "mine")
    return folder


def test_profiles_name_only_rules_that_exist(site):
    """Snakemake accepts unknown rule names in silence."""
    for name in ("slurm", "local", "mine"):
        profile = yaml.safe_load((site / name / "profile.yaml").read_text())
        assert not set(profile) - {*BY_RULE, *KNOWN}, "a key that this test does not know"
        named = {rule for key in BY_RULE for rule in profile.get(key, {})}
        arrays = str(profile.get("slurm-array-jobs", ""))
        named |= {rule for rule in re.split("[,; ]+", arrays) if rule not in ("", "all")}
        if named:
            assert named <= set(snakemake(site, "--list-rules", "--profile", name).split())


KNOWN = ["executor", "configfile", "jobs", "cores", "retries", "latency-wait", "rerun-incomplete",
         "keep-going", "printshellcmds", "show-failed-logs", "slurm-logdir", "slurm-requeue",
         "resources", "default-resources"]  # fmt: skip


def test_a_rule_is_local_or_asks_for_what_it_takes():
    """One of both, in every rule; a rule that is made from another inherits it."""
    seen = 0
    for path in (ROOT / "rules").glob("*.smk"):
        blocks = re.split(r"^ *rule\b[^\n]*:\n", path.read_text(), flags=re.MULTILINE)[1:]
        for block in blocks:
            seen += 1
            assert ("localrule: True" in block) + ("**asks" in block) == 1, (path.name, block[:200])
    assert seen > 50


def test_a_sites_profile_cannot_erase_what_jobs_ask_for(site):
    """Memory, time, GPUs and the signal stay, with the site's account, partitions and way of naming
    GPUs."""
    words = ("-n", "figures/squeeze.pdf", "figures/mnist.pdf", "preflight", "--profile", "slurm")
    for more in ((), ("--profile", "mine")):
        jobs = requests(snakemake(site, *words, *more))
        submitted = {rule: asked for rule, asked in jobs if "slurm_extra" in asked}
        assert {"finetune_dpo", "score_reference", "learn_digits", "check_place"} <= set(submitted)
        assert not {"fetch_model", "fetch_data_file", "build_pairs"} & set(submitted)
        for rule, asked in submitted.items():
            assert int(asked["mem_mb"]) >= 500 and int(asked["runtime"]) > 0
            assert asked["slurm_extra"] == "--signal=TERM@120"
            if more:
                assert asked["slurm_account"] == "my-account" and int(asked["runtime"]) <= 720
            if rule == "check_place":
                continue
            on_gpu = rule not in ("learn_digits", "track_entk")
            assert ("cards" in asked) == on_gpu
            assert asked.get("gpu") == ("1" if on_gpu and not more else None)
            assert asked.get("gres") == ("gpu:a100:1" if on_gpu and more else None)
            if more:
                assert asked["slurm_partition"] == ("gpu" if on_gpu else "cpu")
        kinds = [asked for rule, asked in jobs if rule == "check_place"]
        assert len(kinds) == 2 and len([asked for asked in kinds if "cards" in asked]) == 1


def asks(**sections):
    """The function of rules/resources.smk, for the paper's study with keys of sections changed."""
    config = load_config([ROOT / "config.yaml", ROOT / "studies/paper.yaml"])
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    names = {"STUDY": Study(config), "PROCESSES": config["compute"].get("processes", 1)}
    exec((ROOT / "rules/resources.smk").read_text(), names)
    return names["asks"]


def test_a_failed_attempt_asks_for_more_up_to_the_limit():
    """Memory and time grow with the attempt and with the model."""
    run = {"dataset": "hh", "model": "pythia-1b", "run": "dpo"}
    found = asks()("finetune")
    for name in ("mem_mb", "runtime"):
        first, third = found[name](run, 1), found[name](run, 3)
        assert 2.8 * first < third < 3.2 * first or third == 1440
        assert found[name]({**run, "model": "pythia-2.8b"}, 1) > first or first == 1440
    assert asks(cluster={"longest": 60})("finetune")["runtime"](run, 5) == 60


def test_gpus_are_asked_for_in_one_of_two_ways():
    """--gpus with a model, or --gres with units; as many as processes; the cap counts either."""

    def words(processes=1, **cluster):
        found = asks(cluster=cluster, compute={"processes": processes})("finetune")
        names = ("gpu", "gpu_model", "gres", "cards")
        return tuple(found.get(name) for name in names)

    assert words() == (1, None, None, 1)
    assert words(4, gpu_model="a100") == (4, "a100", None, 4)
    assert words(2, gres="gpu:a100") == (None, None, "gpu:a100:2", 2)
    assert words(gres="shard") == (None, None, "shard:1", 1)
    assert words(gres="mps", units=25) == (None, None, "mps:25", 1)


def test_a_preflight_runs_and_says_what_it_found(tmp_path):
    """On this machine, with the local executor; again, because it is never up to date."""
    typed = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1",
             "preflight"]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PATH": path})  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for check in ("libraries", "cores", "downloads", "scratch", "results", "signal"):
            assert re.search(rf"^ok    cpu on \S+: {check}: ", done.stdout, re.MULTILINE)
        assert "nothing is wrong" in done.stdout


def test_the_environments_have_the_pins_of_pyproject(tmp_path):
    """The conda environment repeats them exactly; the container recipes read them."""
    conda = yaml.safe_load((ROOT / "envs/learning-dynamics.yaml").read_text())
    pip = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert pip == PROJECT["dependencies"]
    python = next(d for d in conda["dependencies"] if str(d).startswith("python="))
    for name in ("Dockerfile", "apptainer.def"):
        text = (ROOT / "envs" / name).read_text()
        assert "==" not in text, "a version of its own"
        assert (
            re.search(r"(?i)^from:? python:(\S+?)-slim", text, re.MULTILINE)[1]
            == (python.partition("=")[2])
        )
        line = re.search(r"python -c .* > /opt/pins.txt", text)[0]
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        here = line.replace("/opt/", f"{tmp_path}/").replace("python -c", f"{sys.executable} -c")
        subprocess.run(here, shell=True, check=True)
        assert (tmp_path / "pins.txt").read_text().split("\n")[:-1] == PROJECT["dependencies"]

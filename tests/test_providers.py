"""A probing set of real HH text, its machine-written types made by each provider that runs here,
through the scripts of the workflow."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest

from learning_dynamics import models
from learning_dynamics.probe import RESPONSE_TYPES, SAMPLED_TYPES
from learning_dynamics.rephrase import ASKED
from learning_dynamics.study import Study, load_config
from tests.conftest import HH, ROOT
from tests.endpoint import SECRET

ROWS = 30
MISHAPS = [429, 500, "stall", "cut", "malformed", "empty", "refusal", "same"]


def dataset(**rephrase):
    """HH's pairs alone: nothing that the file brings along is used."""
    config = load_config([ROOT / "config.yaml"])
    config["datasets"]["hh"] = {"source": "file", "path": str(HH), "given": [], "test_share": 0.5,
                                "rephrase": rephrase}  # fmt: skip
    return Study(config).datasets["hh"]


def command(name, folder, *words):
    """A script's command line, its JSON arguments as dicts."""
    words = [json.dumps(word) if isinstance(word, dict) else str(word) for word in words]
    return [sys.executable, str(ROOT / f"workflow_scripts/{name}.py"), *words]


def run(name, folder, *words):
    """Run a script in ``folder``."""
    done = subprocess.run(command(name, folder, *words), cwd=folder, capture_output=True, text=True,
                          env=environment())  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def environment():
    """This checkout's package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def asking(folder, spec, *words):
    """The words of the rephrasing script."""
    probe = {"train": ROWS, "test": 10, "types": RESPONSE_TYPES}
    return ("--spec", spec, "--probe", probe, "--pairs", "pairs.parquet", "--given",
            "given.parquet", "--out", "rephrases.parquet", *words)  # fmt: skip


def build(folder, spec, *words):
    """Pairs, rephrases and the probing set; the latter two tables."""
    run("build_pairs", folder, "--spec", spec, "--files", HH, "--pairs", "pairs.parquet",
        "--corpus", "corpus.parquet", "--given", "given.parquet")  # fmt: skip
    run("rephrase_probes", folder, *asking(folder, spec, *words))
    return probing_set(folder, spec)


def probing_set(folder, spec):
    """Rephrases and the probing set built from them."""
    probe = {"train": ROWS, "test": 10, "types": RESPONSE_TYPES}
    run("build_probes", folder, "--spec", spec, "--probe", probe, "--pairs", "pairs.parquet",
        "--given", "given.parquet", "--rephrases", "rephrases.parquet",
        "--out", "probe.parquet")  # fmt: skip
    return pd.read_parquet(folder / "rephrases.parquet"), pd.read_parquet(folder / "probe.parquet")


@pytest.fixture(autouse=True)
def real_text(hh_rows):
    """Skips where the HH file is not."""


def test_none(tmp_path):
    """The asked types are absent, all others there, for both splits."""
    rephrases, probes = build(tmp_path, dataset(provider="none"))
    assert rephrases.empty
    counts = probes.groupby(["split", "response_type"]).size().unstack()
    assert set(counts.columns) == set(RESPONSE_TYPES) - set(SAMPLED_TYPES) - set(ASKED)
    assert (counts.loc["train"] == ROWS).all() and (counts.loc["test"] == 10).all()


def test_transformers(tiny, tmp_path):
    """A tiny local model writes something for every row; what is no rewording is marked."""
    models.save(*tiny, tmp_path / "model")
    spec = dataset(provider="transformers", model="toy-neox", max_tokens=24, attempts=2,
                   cache="cache", concurrency=16)  # fmt: skip
    compute = {"device": "cpu", "threads": 1}
    rephrases, probes = build(tmp_path, spec, "--model", "model", "--model-spec",
                              {"max_length": 2048}, "--compute", compute)  # fmt: skip
    assert len(rephrases) == 5 * (ROWS + 10)
    good = rephrases[rephrases["status"] == "ok"].groupby("response_type").size().to_dict()
    bad = rephrases[rephrases["status"] != "ok"]
    assert good and len(bad), "a random model writes some texts of a fitting length, not all"
    made = probes[probes["response_type"].isin(ASKED)].groupby("response_type").size().to_dict()
    assert made == good
    assert set(probes.loc[probes["response_type"].isin(ASKED), "made_by"]) == {"model"}


def test_openai_killed_five_times(server, tmp_path):
    """An endpoint that misbehaves in every way, and five kills at random moments: the set is whole
    in the end, no answer that was stored is asked for again, and beyond the planned mishaps at most
    what was in flight at a kill is repeated."""
    rng = random.Random(3)
    server.delay = 0.03

    def fine(request):
        if "Its length is" in request:
            return "word " * int(request.split("Its length is ")[1].split()[0])
        return " ".join(reversed(request.split("Text:\n")[1].split())) + " indeed"

    server.item, server.fine = str, fine
    spec = dataset(provider="openai", model="strong", base_url=server.url, key_variable="TEST_KEY",
                   cache="cache", concurrency=4, timeout=0.6, retries=4)  # fmt: skip
    run("build_pairs", tmp_path, "--spec", spec, "--files", HH, "--pairs", "pairs.parquet",
        "--corpus", "corpus.parquet", "--given", "given.parquet")  # fmt: skip
    words = asking(tmp_path, spec)

    def mishap_once(request, known=server.plan):  # one request in six meets a mishap, once
        if request not in known:
            known[request] = [rng.choice(MISHAPS)] if rng.random() < 1 / 6 else []
        return request

    server.item = mishap_once
    stored = lambda: len(list((tmp_path / "cache").glob("[!.]*.json")))  # noqa: E731
    for _ in range(5):
        process = subprocess.Popen(command("rephrase_probes", tmp_path, *words), cwd=tmp_path,
                                   env=environment(), stderr=subprocess.DEVNULL)  # fmt: skip
        wanted = stored() + rng.randint(1, 25)
        deadline = time.monotonic() + 60
        while stored() < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        time.sleep(0.3)
    assert not (tmp_path / "rephrases.parquet").exists()
    before, asked = stored(), server.asked.total()
    run("rephrase_probes", tmp_path, *words)
    rephrases, probes = probing_set(tmp_path, spec)
    total = 5 * (ROWS + 10)
    usable = rephrases[rephrases["status"] == "ok"]
    assert len(rephrases) == total and len(usable) >= total - 10  # a blank response has none
    counts = probes[probes["response_type"].isin(ASKED)].groupby("response_type").size()
    assert counts.sum() == len(usable) and (counts >= ROWS).all()
    assert 0 < before < stored()
    # Everything that was stored before the last start was not asked for again.
    planned = sum(server.asked[r] > 1 for r in server.asked)
    assert server.asked.total() - asked <= (total - before) + planned + 8
    # Good answers that were sent twice are those in flight at a kill (or not read in time).
    requests_of_same_wording = Counter(rephrases["response_type"])["irr_hum"]
    repeated = sum(count - 1 for r, count in server.sent.items() if "Its length is" not in r)
    assert repeated <= 5 * spec["rephrase"]["concurrency"]
    assert requests_of_same_wording == ROWS + 10
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in files)

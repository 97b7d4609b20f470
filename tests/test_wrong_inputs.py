"""Wrong input, through the entry points that people use: Snakemake and the workflow scripts.

Each case ends in one line ``error: ...`` that names the place, the value found and what was
expected, with a non-zero exit code, no traceback and nothing half-written.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import STUDY, dataset, rephrased
from conftest import TOYWORLD as WORLD
from safetensors.torch import load_file, save_file

from learning_dynamics import answers, models, pairs
from learning_dynamics.errors import InputError
from learning_dynamics.files import write_table
from tests.conftest import COMPUTE, run_spec

ROOT = Path(__file__).resolve().parent.parent
TOYWORLD = {**WORLD, "train_rows": 8, "test_rows": 6, "documents": 80}
TEXTS = STUDY.texts("toyworld")
FILE = dataset(source="file", pretrain_share=0.3, test_share=0, path="mine")
HUB = dataset(source="hub", hub="no/data", revision="0" * 40, format="hh", train_rows=2,
              test_rows=0)  # fmt: skip
MODEL = {"source": "pretrain", "corpus": "toyworld", "architecture": "gpt_neox",
         "vocab_size": 300, "hidden_size": 8, "layers": 1, "heads": 2, "updates": 2,
         "batch_size": 2, "sequence_length": 16, "lr": 1e-3, "max_length": 256,
         "max_prompt_length": None}  # fmt: skip
PROBE = {**STUDY.config["probe"], "train": 2, "test": 2,
         "types": ["chosen", "rejected", "irr_test", "irr_hum"]}  # fmt: skip
SFT = run_spec("sft", optimizer="sgd", warmup=0)


def run(words, folder, **environment):
    """Run a command in ``folder`` as a user would, with this checkout's package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(name, folder, *words, **environment):
    """Run a workflow script; dicts among its words become JSON."""
    words = [json.dumps(word) if isinstance(word, dict) else word for word in words]
    return run([ROOT / "workflow_scripts" / f"{name}.py", *words], folder, **environment)


def snakemake(folder, *words, dry="-n"):
    """Plan (or make) targets with this project's Snakefile in ``folder``."""
    return run(["-m", "snakemake", "-s", ROOT / "Snakefile", "-d", folder, dry, *words], folder)


def assert_one_line(done, *fragments):
    """Check for a failure that is told in one line, which holds all ``fragments``."""
    said = done.stdout + done.stderr
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0, said
    assert "Traceback" not in said, said
    assert len(lines) == 1, said
    for fragment in fragments:
        assert fragment in lines[0]


def assert_empty(folder):
    """Check that no output and no temporary file is left below ``folder``."""
    assert [str(path) for path in folder.rglob("*") if path.is_file()] == []


# -- the config ------------------------------------------------------------------------------

CONFIGS = {
    "unknown-section": ("probee: {train: 3}", "probee", "unknown", "expected one of study, seeds"),
    "unknown-key-of-a-run": (
        "runs: {sft: {lrr: 1.0}}",
        "runs.sft.lrr: unknown",
        "one of algorithm",
    ),
    "number-as-text": ("runs: {dpo: {lr: 5e-7}}", "runs.dpo.lr: '5e-7'", "write 5.0e-7"),
    "negative-lr": ("runs: {dpo: {lr: -1.0}}", "runs.dpo.lr: -1.0", "expected more than 0"),
    "wrong-type": ("seeds: 3", "seeds: 3", "expected type array"),
    "unknown-algorithm": ("runs: {dpo: {algorithm: ppo}}", "runs.dpo.algorithm: 'ppo'", "sft, npo"),
    "cyclic-init": ("runs: {sft: {init: dpo}}", "runs.sft.init: 'dpo'", "expected a chain to base"),
    "missing-init": ("runs: {dpo: {init: sftt}}", "runs.dpo.init: 'sftt'", "one of base, dpo"),
    "epoch-beyond-end": ("runs: {dpo: {init: sft@9}}", "'sft@9'", "at most 2, where run 'sft' end"),
    "run-outside": ("runs: {../x: {algorithm: sft}}", "runs: '../x'", "expected text that matches"),
    "study-outside": ("study: ../x", "study: '../x'", "expected text that matches"),
    "active-undefined": ("active: {runs: [sftt]}", "active.runs: 'sftt'", "expected one of sft"),
    "figure-undefined": ("figures: {squeeze: {runs: {dpo: d}}}", "figures.squeeze.runs", "'d'"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config(name, tmp_path):
    """A wrong config value is named with its file, its field and what would do."""
    text, *fragments = CONFIGS[name]
    (tmp_path / "overlay.yaml").write_text(text, encoding="utf-8")
    done = snakemake(tmp_path, "--configfile", "overlay.yaml")
    assert_one_line(done, "overlay.yaml: ", *fragments)
    assert {p.name for p in tmp_path.iterdir()} <= {"overlay.yaml", ".snakemake"}


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        (None, ["no such file", "expected a YAML config"]),
        (b"runs: {sft: [", ["not valid YAML", "line "]),
        (b"study: \xff\xfe\n", ["not UTF-8 at byte 7", "expected UTF-8"]),
        (b"- seeds\n", ["top level is ['seeds']", "expected a mapping"]),
    ],
    ids=["missing", "not-yaml", "not-utf8", "not-a-mapping"],
)
def test_unreadable_config(content, fragments, tmp_path):
    """An overlay that cannot be read stops Snakemake before our code runs, with its own words; the
    check of config files alone says it in one line."""
    if content is not None:
        (tmp_path / "overlay.yaml").write_bytes(content)
    done = run(["-m", "learning_dynamics.study", ROOT / "config.yaml", "overlay.yaml"], tmp_path)
    assert_one_line(done, "overlay.yaml: ", *fragments)
    assert snakemake(tmp_path, "--configfile", "overlay.yaml").returncode != 0
    assert {p.name for p in tmp_path.iterdir()} <= {"overlay.yaml", ".snakemake"}


def test_command_line(tmp_path):
    """A wrong value of --config is not blamed on a file."""
    done = snakemake(tmp_path, "--config", "seeds=3")
    assert_one_line(done, "command line: seeds: 3: expected type array")


HUB_ENTRY = f"source: hub, hub: a/b, revision: '{'0' * 40}', format: hh"


@pytest.mark.parametrize(
    ("entry", "fragments"),
    [
        (
            "source: file, path: nowhere.jsonl",
            ["datasets.mine.path: nowhere.jsonl", "no such file"],
        ),
        ("source: file", ["datasets.mine: no path and no url", "expected one", "DATA=path"]),
        (
            f"{HUB_ENTRY}, probes: [{{url: 'https://a/b.jsonl'}}, {{path: nowhere.jsonl}}]",
            ["datasets.mine.probes.1.path: nowhere.jsonl", "no such file"],
        ),
        (f"{HUB_ENTRY}, probes: [{{}}]", ["datasets.mine.probes.0: no path", "expected one"]),
    ],
    ids=["file", "no-file", "probes", "no-probes"],
)
def test_data_file_of_config(entry, fragments, tmp_path):
    """A local file that is not there is found while Snakemake plans."""
    (tmp_path / "overlay.yaml").write_text(
        f"datasets: {{mine: {{{entry}}}}}\nactive: {{datasets: [mine]}}\n", encoding="utf-8"
    )
    done = snakemake(tmp_path, "--configfile", "overlay.yaml")
    assert_one_line(done, *fragments)
    assert {p.name for p in tmp_path.iterdir()} <= {"overlay.yaml", ".snakemake"}


def test_published_folder_without_runs(tmp_path):
    """A folder of published runs that holds none is found while Snakemake plans."""
    done = snakemake(tmp_path, "--config", "published=nowhere")
    assert_one_line(done, "published: 'nowhere'", "holds no run", "prob_train_metrics.json")


# -- preference pairs ------------------------------------------------------------------------

ROWS = [
    {
        "example_id": f"e{i}",
        "prompt": f"\n\nHuman: question {i}\n\nAssistant:",
        "chosen": f" yes {i}",
        "rejected": f" no {i}",
    }
    for i in range(6)
]


def jsonl(*rows):
    """Rows as a probing file."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def second(**fields):
    """A probing file whose second row has other fields (None: the field is left out)."""
    row = {k: v for k, v in {**ROWS[1], **fields}.items() if v is not None}
    return jsonl(ROWS[0], row, *ROWS[2:])


PROBING_FILES = {
    "missing": (None, "no such file", "expected a probing file"),
    "empty": (b"", "empty", "expected at least one row"),
    "truncated": (jsonl(*ROWS)[:-9], "line 6: not JSON", "truncated?"),
    "not-utf8": (jsonl(*ROWS).replace(b"yes 0", b"\xff"), "not UTF-8 (byte 0xff", "expected UTF"),
    "not-an-object": (jsonl(ROWS[0], [1, 2]), "line 2", "[1, 2]", "expected a JSON object"),
    "missing-field": (second(rejected=None), "line 2", "'rejected' is missing", "prompt, chosen"),
    "not-text": (second(chosen=["a"]), "line 2", "'chosen' is ['a']", "expected text"),
    "half-a-character": (second(chosen="\ud83d"), "line 2", "'chosen'", "expected"),
    "empty-prompt": (second(prompt=" \n"), "line 2", "'prompt' is empty", "expected text"),
    "repeated-id": (second(example_id="e0"), "line 2", "'e0'", "line 1", "expected distinct"),
    "repeated-row": (jsonl(*ROWS, {**ROWS[2], "example_id": "e9"}), "line 7", "line 3", "distinct"),
    "truncated.csv": (b"prompt,chosen,rejected\na,b,c\nd,e", "line 3", "header's 3", "truncated?"),
    "truncated.parquet": (b"PAR1 and no more", "not a whole Parquet file"),
    "suffix.txt": (jsonl(*ROWS), "suffix '.txt'", "expected one of .jsonl, .json, .csv, .parquet"),
}
PAIRS_OUT = ["--pairs", "out/pairs.parquet", "--corpus", "out/corpus.parquet",
             "--given", "out/given.parquet"]  # fmt: skip


@pytest.mark.parametrize("name", PROBING_FILES)
def test_data_file(name, tmp_path):
    """A bad file of pairs is named with line, field and value."""
    content, *fragments = PROBING_FILES[name]
    path = tmp_path / f"mine{Path(name).suffix or '.jsonl'}"
    if content is not None:
        path.write_bytes(content)
    done = script("build_pairs", tmp_path, "--spec", FILE, "--files", path, *PAIRS_OUT)
    assert_one_line(done, str(path), *fragments)
    assert_empty(tmp_path / "out")


def test_data_file_with_too_few_rows(tmp_path):
    """Fewer than two training pairs are left: file, number and expectation."""
    (tmp_path / "mine.jsonl").write_bytes(jsonl(ROWS[0]))
    done = script("build_pairs", tmp_path, "--spec", {**FILE, "pretrain_share": 0},
                  "--files", "mine.jsonl", *PAIRS_OUT)  # fmt: skip
    assert_empty(tmp_path / "out")
    assert_one_line(done, "1 rows", "fewer than 2")
    assert_one_line(done, "mine.jsonl")


def test_no_data_file(tmp_path):
    """The script without the file that its data set needs."""
    done = script("build_pairs", tmp_path, "--spec", FILE, *PAIRS_OUT)
    assert_one_line(done, "no file given", "expected path, url or make DATA=")
    assert_empty(tmp_path / "out")


def test_filter_without_a_tokenizer(tmp_path):
    """A length filter whose model folder has no tokenizer.json."""
    (tmp_path / "mine.jsonl").write_bytes(jsonl(*ROWS))
    spec = {**FILE, "filter": {"max_tokens": 20, "tokenizer": "m"}}
    done = script("build_pairs", tmp_path, "--spec", spec, "--files", "mine.jsonl",
                  "--tokenizer", "gone", *PAIRS_OUT)  # fmt: skip
    assert_one_line(done, "gone/tokenizer.json", "cannot be read")
    assert_empty(tmp_path / "out")


def test_probing_file_through_the_pipeline(tmp_path):
    """The same line reaches those who run Snakemake, and no table is left."""
    (tmp_path / "mine.jsonl").write_bytes(PROBING_FILES["truncated"][0])
    (tmp_path / "overlay.yaml").write_text(
        "datasets: {mine: {source: file, path: mine.jsonl}}", encoding="utf-8"
    )
    done = snakemake(tmp_path, "results/toy/data/mine/pairs.parquet",
                     "--configfile", "overlay.yaml", dry="--cores=1")  # fmt: skip
    assert_one_line(done, "mine.jsonl: line 6: not JSON", "truncated?")
    assert_empty(tmp_path / "results" / "toy" / "data")


def test_world_too_small(tmp_path):
    """More rows than the toy world has facts; the line is in the log file as well."""
    done = script("build_pairs", tmp_path, "--spec", {**TOYWORLD, "train_rows": 10**6},
                  *PAIRS_OUT, "--log", "a/log")  # fmt: skip
    assert_one_line(done, "train_rows + test_rows = 1000006", "expected no more rows than facts")
    assert "error: train_rows" in (tmp_path / "a" / "log").read_text(encoding="utf-8")
    assert_empty(tmp_path / "out")


@pytest.mark.parametrize(
    ("hub", "fragments"),
    [
        ("no/such-data", ["no/such-data at revision 000", "cannot be loaded", "expected"]),
        ("data", ["train row 1", "no mark", "expected the format 'hh'"]),
        ("data/train.jsonl", ["data/train.jsonl at revision 000", "cannot be loaded", "expected"]),
    ],
)
def test_hub_pairs(hub, fragments, tmp_path):
    """A hub data set that cannot be had, or is not in the format that was asked for."""
    (tmp_path / "data").mkdir()
    good = "\n\nHuman: q\n\nAssistant: a"
    rows = [{"chosen": good, "rejected": good + "b"}, {"chosen": "no mark", "rejected": good}]
    (tmp_path / "data" / "train.jsonl").write_bytes(jsonl(*rows))
    done = script("build_pairs", tmp_path, "--spec", {**HUB, "hub": hub}, *PAIRS_OUT,
                  HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")  # fmt: skip
    assert_one_line(done, *fragments)
    assert_empty(tmp_path / "out")


# -- paths -----------------------------------------------------------------------------------


def test_output_below_a_file(tmp_path):
    """An output whose folder cannot be made is named."""
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    done = script("compute_theory", tmp_path, "--out", "file.txt/squeeze.csv")
    assert_one_line(done, "file.txt", "expected")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(tmp_path):
    """A folder that may not be written to is named."""
    (tmp_path / "locked").mkdir(mode=0o500)
    done = script("compute_theory", tmp_path, "--out", "locked/squeeze.csv")
    assert_one_line(done, "locked", "Permission denied", "expected")
    assert_empty(tmp_path / "locked")


def test_log_below_a_file(tmp_path):
    """A log file that cannot be made is named, and no work is done."""
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    done = script("compute_theory", tmp_path, "--out", "out/a.csv", "--log", "file.txt/log")
    assert_one_line(done, "file.txt/log", "expected a log file")
    assert_empty(tmp_path / "out")


# -- downloads -------------------------------------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves six bytes; ``/short`` promises more, everything but these two is missing."""

    def do_GET(self):
        """Answer one request."""
        self.send_response(200 if self.path in ("/whole", "/short") else 404)
        self.send_header("Content-Length", "600" if self.path == "/short" else "6")
        self.end_headers()
        self.wfile.write(b"{}\n{}\n")

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    """The address of a local HTTP server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def closed_port():
    """The address of a local port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("path", "fragments"),
    [
        ("/whole", ["/whole: sha256 is ", "expected " + "0" * 64]),
        ("/short", ["/short: cannot be downloaded", "give a local copy"]),
        ("/missing", ["/missing: cannot be downloaded", "404"]),
        (None, ["cannot be downloaded", "refused", "give a local copy"]),
    ],
)
def test_download(path, fragments, server, tmp_path):
    """A download that fails, ends early or has another digest leaves nothing behind."""
    url = server + path if path else closed_port()
    done = script("fetch_file", tmp_path, "--url", url, "--sha256", "0" * 64, "--out", "out/f")
    assert_one_line(done, *fragments)
    assert_empty(tmp_path / "out")


# -- tables and models -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with tiny valid inputs: pairs, corpus, probes and a model; and broken copies."""
    folder = tmp_path_factory.mktemp("made")
    data = pairs.build(TOYWORLD)
    table, corpus = data.pairs, data.corpus
    write_table(folder / "pairs.parquet", table)
    write_table(folder / "given.parquet", data.given.astype("str"))
    rephrases = rephrased(data, TOYWORLD, PROBE)
    write_table(folder / "rephrases.parquet", rephrases, answers.SCHEMA)
    write_table(folder / "no-status.parquet", rephrases.drop(columns="status"))
    (folder / "own.py").write_text("def half(example, rng):\n    return 1 / 0\n", encoding="utf-8")
    write_table(folder / "corpus.parquet", pd.DataFrame({"text": corpus}))
    probes = table[:3].rename(columns={"chosen": "response"}).assign(made_by="test")
    write_table(folder / "probe.parquet", probes.assign(response_type="chosen"))
    write_table(folder / "no-rejected.parquet", table.drop(columns="rejected"))
    whole = (folder / "pairs.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    model, tokenizer, _ = models.pretrain(corpus, MODEL, 0)
    models.save(model, tokenizer, folder / "model")
    for name in ("no-config", "truncated-model", "incomplete-model"):
        shutil.copytree(folder / "model", folder / name)
    (folder / "no-config" / "config.json").unlink()
    weights = folder / "truncated-model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    tensors = load_file(folder / "model" / "model.safetensors")
    del tensors["gpt_neox.layers.0.mlp.dense_4h_to_h.bias"]
    save_file(tensors, folder / "incomplete-model" / "model.safetensors", {"format": "pt"})
    return folder


def own(function, **changed):
    """Section probe with a type of the user's own."""
    return {**PROBE, **changed, "types": [*PROBE["types"], "half"],
            "own_types": {"half": {"function": function}}}  # fmt: skip


PROBE_CASES = {
    "truncated": ({"pairs": "truncated.parquet"}, "truncated.parquet: not a whole", "rebuild it"),
    "no-column": ({"pairs": "no-rejected.parquet"}, "column 'rejected' is missing", "split, exam"),
    "no-file": ({"pairs": "nowhere.parquet"}, "nowhere.parquet: no such file", "Parquet table"),
    "a-folder": ({"pairs": "model"}, "model: no such file", "expected a Parquet table"),
    "no-status": ({"rephrases": "no-status.parquet"}, "no-status.parquet: column 'status' is miss"),
    "no-given": ({"given": "nowhere.parquet"}, "nowhere.parquet: no such file", "Parquet table"),
    "train": ({"probe": {**PROBE, "train": 9}}, "probe.train = 9", "has 8 train", "expected no mo"),
    "test": ({"probe": {**PROBE, "test": 5}}, "probe.test = 5", "leaves 1 held-out", "2 more"),
    "no-function": ({"probe": own("own.py:third")}, "probe.own_types", "no attribute 'third'"),
    "no-own-file": ({"probe": own("gone.py:half")}, "'gone.py:half': no such file", "file.py:func"),
    "it-raises": ({"probe": own("own.py:half")}, "own_types.half: fails on", "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", PROBE_CASES)
def test_build_probes(name, made, tmp_path):
    """A bad table, more probes than pairs, or a function of the user's that does not work."""
    changed, *fragments = PROBE_CASES[name]
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    words = {"spec": TOYWORLD, "probe": PROBE, "pairs": "pairs.parquet", "given": "given.parquet",
             "rephrases": "rephrases.parquet", **changed}  # fmt: skip
    done = script("build_probes", tmp_path, *(w for k, v in words.items() for w in (f"--{k}", v)),
                  "--out", "out/probe.parquet")  # fmt: skip
    assert_one_line(done, *fragments)
    assert_empty(tmp_path / "out")


def scoring(model="model", pairs_file="pairs.parquet", compute=COMPUTE, **changed):
    """A call of score_reference with another model folder, pairs table, device or model spec."""
    return ("score_reference", "--model", model, "--pairs", pairs_file, "--compute", compute,
            "--model-spec", {**MODEL, **changed}, "--texts", TEXTS,
            "--out", "out/reference.parquet")  # fmt: skip


MODEL_CASES = {
    "no-room": (scoring(max_length=8), "prompt of pair 'fact-", "no room", "max_length = 8"),
    "no-config": (scoring("no-config"), "no-config: no config.json", "expected a model folder"),
    "truncated": (scoring("truncated-model"), "truncated-model: not a loadable", "expected safet"),
    "no-gpu": (scoring(compute={**COMPUTE, "device": "cuda"}), "'cuda'", "expected a GPU job"),
    "diverging-run": (
        ("finetune", "--spec", {**SFT, "lr": 1e38}, "--model-spec", MODEL, "--compute", COMPUTE,
         "--texts", TEXTS, "--seed", 0, "--init", "model", "--pairs", "pairs.parquet",
         "--probes", "probe.parquet", "--out", "out"),
        "lr = 1e+38", "the loss is nan at update 2", "expected a finite loss",
    ),
    "target": (
        ("finetune", "--spec", {**SFT, "rows": "probes", "target": "irr_hum"}, "--model-spec",
         MODEL, "--compute", COMPUTE, "--texts", TEXTS, "--seed", 0, "--init", "model",
         "--pairs", "pairs.parquet", "--probes", "probe.parquet", "--out", "out"),
        "target = 'irr_hum'", "no such response type", "expected one of chosen",
    ),
    "one-step-pairs": (
        ("measure_one_step", "--model", "model", "--model-spec", MODEL, "--compute", COMPUTE,
         "--texts", TEXTS, "--pairs", "pairs.parquet", "--seed", 0, "--batches", 5,
         "--batch-size", 2, "--out", "out/one-step.parquet"),
        "one_step: 5 batches of 2 need 10", "the data set has 8",
    ),
    "mass-pairs": (
        ("measure_mass", "--model", "model", "--model-spec", MODEL, "--compute", COMPUTE,
         "--texts", TEXTS, "--pairs", "pairs.parquet", "--seed", 0, "--batches", 3,
         "--batch-size", 4, "--out", "out/mass.parquet"),
        "figures.mass.one_step: 3 batches of 4 need 12", "the data set has 8",
    ),
    "kernel-examples": (
        ("measure_mutual", "--model", "model", "--model-spec", MODEL, "--compute", COMPUTE,
         "--texts", TEXTS, "--probes", "probe.parquet", "--examples", 50, "--gradients-mb", 1,
         "--out", "out/mutual.parquet"),
        "figures.kernel.examples = 50: the probe set has", "expected at least as many",
    ),
    "hub-model": (
        ("fetch_model", "--spec", {"hub": "no/such-model", "revision": "0" * 40},
         "--out", "out/model"),
        "model no/such-model at revision 000", "expected a reachable hub",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL_CASES)
def test_model_case(name, made, tmp_path):
    """Models, prompts, devices and learning rates that cannot work."""
    if name == "no-gpu" and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (called, *words), *fragments = MODEL_CASES[name]
    done = script(called, tmp_path, *words, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert_one_line(done, *fragments)
    # How far an attempt came is no result: the next one says what it repeats.
    (tmp_path / "out/.resume/progress.json").unlink(missing_ok=True)
    assert_empty(tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"lr": 1e30}, r"lr = 1e\+30: pretraining diverged; expected a smaller lr"),
        ({"batch_size": 10**6}, r"corpus: \d+ tokens; expected at least batch_size"),
        ({"hidden_size": 9}, r"hidden_size = 9 with heads = 2: expected a multiple of heads"),
    ],
)
def test_pretraining(changed, expected, made):
    """A model that cannot be trained; in this process, because nothing is written before."""
    corpus = list(pd.read_parquet(made / "corpus.parquet")["text"])
    with pytest.raises(InputError, match=expected):
        models.pretrain(corpus, {**MODEL, **changed}, 0)


def test_incomplete_weights(made):
    """A tensor that is missing from the weights is not made up."""
    with pytest.raises(InputError, match=r"incomplete-model: .*4h_to_h\.bias.* expected"):
        models.load(made / "incomplete-model")

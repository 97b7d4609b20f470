"""Paths, the run graph and helper functions; the study is read and checked here.

Requires the merged config; makes nothing. A bad config ends here, in one line.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.errors import InputError, fail
from learning_dynamics.probe import SAMPLED_TYPES
from learning_dynamics.provenance import digest_of
from learning_dynamics.study import Study

try:
    STUDY = Study(config, [ROOT / "config.yaml", *workflow.overwrite_configfiles])
except InputError as error:
    fail(error)

RESULTS = f"results/{STUDY.name}"
FIGURE_NAMES = [name for name in STUDY.config["figures"]]
TABLE_NAMES = ["changes", "effects", *(["dose"] if "dose" in FIGURE_NAMES else [])]
COMPUTE = json.dumps(
    {**STUDY.config["compute"], "batch_tokens": STUDY.config["probe"]["batch_tokens"]}
)
GPUS = 1 if STUDY.config["compute"]["device"] == "cuda" else 0
# A base model: models/<model>/seed<k> where it is trained here, models/<model> from the hub.
HOME = f"{RESULTS}/models/{{home}}"
RUN = f"{RESULTS}/runs/{{dataset}}/{{model}}/{{run}}/seed{{seed}}"


wildcard_constraints:
    dataset="|".join(STUDY.datasets),
    model="|".join(STUDY.models),
    run="|".join(STUDY.runs),
    home="|".join(sorted({STUDY.home(m, s) for m in STUDY.models for s in STUDY.seeds})),
    seed=r"\d+",
    epoch=r"[0-9.]+",
    figure="|".join(FIGURE_NAMES),
    table="|".join(TABLE_NAMES),


def code(script):
    """A digest of the script and all package code that it uses. As a parameter of its rule it makes
    an edit rerun what depends on it; a touched file, or other code, reruns nothing."""
    return digest_of(f"workflow_scripts/{script}.py")


# Large temporaries page-fault under glibc's defaults; huge pages and no trimming avoid it.
MEMORY = (
    "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 THP_MEM_ALLOC_ENABLE=1"
    " MALLOC_MMAP_THRESHOLD_=268435456 MALLOC_TRIM_THRESHOLD_=1073741824"
)


def script(name):
    """The shell words that call a workflow script, with this checkout's package."""
    here = os.path.relpath(ROOT)  # relative: a checkout that is moved reruns nothing
    return f"env {MEMORY} PYTHONPATH={here} python {here}/workflow_scripts/{name}.py"


def home(model, seed):
    return f"{RESULTS}/models/{STUDY.home(model, seed)}"


def run_folder(dataset, model, run, seed):
    return RUN.format(dataset=dataset, model=model, run=run, seed=seed)


def saved_model(folder, epoch):
    """The model that a run leaves at an epoch, or at its end (epoch None)."""
    return f"{folder}/checkpoints/epoch{epoch}" if epoch else f"{folder}/model"


def init_model(wildcards):
    """The model folder that a run starts from."""
    parent, epoch = STUDY.parent(wildcards.run)
    if parent == "base":
        return f"{home(wildcards.model, wildcards.seed)}/model"
    return saved_model(
        run_folder(wildcards.dataset, wildcards.model, parent, wildcards.seed), epoch
    )


def scored_model(wildcards):
    """The model whose reference log-probs a file like reference[-epoch<e>].parquet holds."""
    folder = run_folder(
        wildcards.dataset, wildcards.model, wildcards.run, wildcards.seed
    )
    return saved_model(folder, wildcards.at.removeprefix("-epoch"))


def reference_of(wildcards):
    """The reference log-probs that a run needs: those of the model it starts from."""
    if not ALGORITHMS[STUDY.runs[wildcards.run]["algorithm"]].reference:
        return []
    parent, epoch = STUDY.parent(wildcards.run)
    if parent == "base":
        return f"{home(wildcards.model, wildcards.seed)}/reference-{wildcards.dataset}.parquet"
    folder = run_folder(wildcards.dataset, wildcards.model, parent, wildcards.seed)
    return (
        f"{folder}/reference-epoch{epoch}.parquet"
        if epoch
        else f"{folder}/reference.parquet"
    )


def probe_tables(wildcards):
    """The probe set of a data set, and what the base model itself adds to it."""
    tables = [f"{RESULTS}/data/{wildcards.dataset}/probe.parquet"]
    if samples_own(wildcards.dataset):
        own = home(wildcards.model, wildcards.seed)
        tables.append(f"{own}/probe-{wildcards.dataset}.parquet")
    return tables


def samples_own(dataset):
    """Whether response types of this data set are sampled from the base model."""
    wanted = set(STUDY.config["probe"]["types"]) & set(SAMPLED_TYPES)
    return STUDY.datasets[dataset]["source"] == "toyworld" and bool(wanted)


def probing_file(wildcards):
    """The file in the published format that a data set reads, if any."""
    spec = STUDY.datasets[wildcards.dataset].get("probes")
    if spec is None:
        return []
    if spec["path"]:
        if not Path(spec["path"]).is_file():
            fail(
                f"datasets.{wildcards.dataset}.probes.path: {spec['path']}: no such file; "
                "expected rows in the published jsonl format"
            )
        return spec["path"]
    if spec["url"]:
        return f"{RESULTS}/data/{wildcards.dataset}/probing-file.jsonl"
    fail(
        f"datasets.{wildcards.dataset}.probes: no path and no url; expected one (make DATA=path)"
    )


def memory_mb(wildcards, attempt=1):
    """Host memory: weights, their copy while loading, and a checkpoint being written (fp32)."""
    model = wildcards.get("model") or STUDY.model_of_home(wildcards.home)[0]
    return round(
        (4000 + 3 * 4 * STUDY.models[model].get("parameters", 0) / 1e6) * attempt
    )


def minutes(wildcards, attempt=1):
    """Wall time to ask for: an hour here, half a day on a GPU; a run cut short resumes."""
    return 720 if STUDY.models[wildcards.model]["source"] == "hub" else 60


def trajectories(figure):
    """The trajectories that a figure's runs leave behind, by run and seed."""
    spec = STUDY.config["figures"][figure]
    runs = spec["runs"].values() if isinstance(spec["runs"], dict) else spec["runs"]
    return [
        f"{run_folder(spec['dataset'], spec['model'], run, seed)}/trajectory.parquet"
        for run in runs
        for seed in STUDY.seeds
    ]


def one_steps():
    """The single-step tables of figures.squeeze, from its SFT model."""
    spec = STUDY.config["figures"]["squeeze"]
    return [
        f"{run_folder(spec['dataset'], spec['model'], spec['runs']['sft'], seed)}/one-step.parquet"
        for seed in STUDY.seeds
    ]


def figure_study(figure):
    """What a figure's script must know of the study, as JSON."""
    return json.dumps(
        {"study": STUDY.name, "seeds": STUDY.seeds, **STUDY.config["figures"][figure]}
    )


def everything():
    """The default target: the active runs and every figure and table of the study."""
    active = STUDY.config["active"]
    return [
        *expand("figures/{name}.{ext}", name=FIGURE_NAMES, ext=["pdf", "png"]),
        *expand("tables/{name}.csv", name=TABLE_NAMES),
        *[
            f"{run_folder(dataset, model, run, seed)}/trajectory.parquet"
            for dataset in active["datasets"]
            for model in active["models"]
            for run in active["runs"]
            for seed in STUDY.seeds
        ],
    ]

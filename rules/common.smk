"""Paths, the run graph and helper functions; the study is read and checked here.

Requires the merged config; makes nothing. A bad config ends here, in one line.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from learning_dynamics.allocator import MEMORY
from learning_dynamics.errors import InputError, fail
from learning_dynamics.lock import others, register
from learning_dynamics.plan import tell
from learning_dynamics.probe import SAMPLED_TYPES
from learning_dynamics.provenance import digest_of
from learning_dynamics.study import Study

tell(config, workflow.global_resources.get("cards").value)
try:
    STUDY = Study(config, [ROOT / "config.yaml", *workflow.overwrite_configfiles])
    # Imported runs: folders by name, and what is known of them.
    PUBLISHED = STUDY.published_runs()
    PUBLISHED_FACTS = STUDY.published_facts()
except InputError as error:
    fail(error)

RESULTS = f"results/{STUDY.name}"
# What may be drawn of them, by figure: the panels of figures/sft and so on, one row per run.
PUBLISHED_RUNS = {
    panels: STUDY.published_of("dpo" if panels == "dpo" else "sft")
    for panels in ("sft", "dpo", "rephrase")
}
PUBLISHED_FIGURES = [
    f"published-{panels}" for panels, runs in PUBLISHED_RUNS.items() if runs
]
# Why figures/winrate cannot be built, where it is asked for; else nothing.
NO_JUDGE = STUDY.no_judge()
FIGURE_NAMES = [
    *[name for name in STUDY.config["figures"] if name != "winrate" or not NO_JUDGE],
    "residuals",
    *PUBLISHED_FIGURES,
    "claims",
]
TABLE_NAMES = [
    "changes",
    "claims",
    "probe",
    "findings",
    "confounds",
    "influence",
    "fingerprint",
    "residuals",
    "coefficients",
    *[name for name in ("dose", "mass") if name in FIGURE_NAMES],
    *(["algorithms", "verdicts"] if "algorithms" in FIGURE_NAMES else []),
    *(["forget", "forgetting"] if "forget" in FIGURE_NAMES else []),
    *(["forks", "fork_parts"] if "forks" in FIGURE_NAMES else []),
    *(
        ["kernel", "kernel_stability", "kernel_proxies"]
        if "kernel" in FIGURE_NAMES
        else []
    ),
    *(["influence_along", "influence_parts"] if "influence" in FIGURE_NAMES else []),
    *(["published"] if PUBLISHED else []),
    *(["digits"] if {"mnist", "entk_mnist"} & set(FIGURE_NAMES) else []),
    *(
        ["entk_proxies", "entk_accumulated", "heatmap"]
        if "entk_proxies" in FIGURE_NAMES
        else []
    ),
    *(["kernel_agreement"] if STUDY.kernel() else []),
    *(["response_space"] if "response_space" in FIGURE_NAMES else []),
    *[name for name in ("winrate", "hallucination") if name in FIGURE_NAMES],
]
# What the report says beside each.
CAPTIONS = yaml.safe_load((ROOT / "report/captions.yaml").read_text(encoding="utf-8"))
CARD = STUDY.config["figures"]["probe"]
COMPUTE = json.dumps(
    {**STUDY.config["compute"], "batch_tokens": STUDY.config["probe"]["batch_tokens"]}
)
PROCESSES = STUDY.config["compute"]["processes"]
# A base model: models/<model>/seed<k> where it is trained here, models/<model> from the hub.
HOME = f"{RESULTS}/models/{{home}}"
RUN = f"{RESULTS}/runs/{{dataset}}/{{model}}/{{run}}/seed{{seed}}"


if NO_JUDGE and workflow.is_main_process:
    print(f"note: {NO_JUDGE}; left out", file=sys.stderr)

# Snakemake's locks stay when it is killed, and do not say whose they are. Every Snakemake that works
# in this folder registers, so that the locks of dead ones are known and nobody need unlock by hand.
if workflow.is_main_process:
    registered = register(".snakemake/at-work")
    if (locks := list(Path(".snakemake/locks").glob("*"))) and not others(registered):
        print("note: removing the locks of a Snakemake that is gone", file=sys.stderr)
        for path in locks:
            path.unlink(missing_ok=True)


def either(names):
    """A pattern of exactly these names; without any, one that nothing matches."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset=either(STUDY.datasets),
    model=either(STUDY.models),
    run=either(STUDY.runs),
    home=either(sorted({STUDY.home(m, s) for m in STUDY.models for s in STUDY.seeds})),
    seed=r"\d+",
    epoch=r"[0-9.]+",
    figure=either(FIGURE_NAMES),
    name=either(PUBLISHED),
    table=either(TABLE_NAMES),


def code(script):
    """A digest of the script and all package code that it uses. As a parameter of its rule it makes
    an edit rerun what depends on it; a touched file, or other code, reruns nothing."""
    return digest_of(f"workflow_scripts/{script}.py")


ALLOCATOR = " ".join(f"{name}={value}" for name, value in MEMORY.items())


def script(name, processes=1):
    """The shell words that call a workflow script, with this checkout's package; in several
    processes where it is asked for."""
    here = os.path.relpath(ROOT)  # relative: a checkout that is moved reruns nothing
    # Without "--" the launcher takes a script's options for abbreviations of its own.
    launch = f" -m torch.distributed.run --standalone --nproc-per-node {processes} --"
    threads = f"OMP_NUM_THREADS={STUDY.config['compute']['threads']} "
    return (
        f"env {ALLOCATOR} {threads if processes > 1 else ''}PYTHONPATH={here}"
        f" python{launch if processes > 1 else ''} {here}/workflow_scripts/{name}.py"
    )


def home(model, seed):
    return f"{RESULTS}/models/{STUDY.home(model, seed)}"


def run_folder(dataset, model, run, seed):
    return RUN.format(dataset=dataset, model=model, run=run, seed=seed)


def saved_model(folder, epoch):
    """The output of a run that holds its model at an epoch, or at its end (epoch None)."""
    return f"{folder}/checkpoints" if epoch else f"{folder}/model"


def model_within(output, epoch):
    """The model's folder in that output."""
    return f"{output}/epoch{epoch}" if epoch else output


def init_model(wildcards):
    """The output that holds the model that a run starts from."""
    parent, epoch = STUDY.parent(wildcards.run)
    if parent == "base":
        return f"{home(wildcards.model, wildcards.seed)}/model"
    return saved_model(
        run_folder(wildcards.dataset, wildcards.model, parent, wildcards.seed), epoch
    )


def model_at(wildcards):
    """The output that holds the model of a file like reference[-epoch<e>].parquet."""
    folder = run_folder(
        wildcards.dataset, wildcards.model, wildcards.run, wildcards.seed
    )
    return saved_model(folder, wildcards.at.removeprefix("-epoch"))


def reference_of(wildcards):
    """The reference log-probs that a run needs: those of the model it starts from."""
    if not STUDY.needs_reference(wildcards.run):
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


def loss_file(wildcards):
    """The user's file that holds a run's loss, if one does."""
    return STUDY.algorithm(wildcards.run).file or []


def loss_digest(wildcards):
    """Its SHA-256: an edit retrains the runs that use it, and nothing else."""
    file = loss_file(wildcards)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def probe_tables(dataset, model, seed):
    """The probe set of a data set, and what the base model itself adds to it."""
    tables = [f"{RESULTS}/data/{dataset}/probe.parquet"]
    if samples_own(dataset):
        own = home(model, seed)
        spec = STUDY.datasets[dataset]
        if spec["confounds"]["initial_origin"] == "as_published":
            # One model's answers stand for all models and seeds.
            own = home(STUDY.config["active"]["models"][0], STUDY.seeds[0])
        tables.append(f"{own}/probe-{dataset}.parquet")
    return tables


def probe_section(wildcards):
    """The section probe, as JSON. A function: in a plain string Snakemake would take the braces of a
    user's template for wildcards."""
    return json.dumps(STUDY.config["probe"])


def texts_of(wildcards):
    """What model jobs must know of a data set's texts, as JSON."""
    return json.dumps(STUDY.texts(wildcards.dataset))


def judge_file(wildcards):
    """The user's file that holds the study's judge, for a run that asks it."""
    own = STUDY.config["judge"]["function"]
    asked = STUDY.runs[wildcards.run].get("rows") == "on-policy"
    return own.rpartition(":")[0] if own and asked else []


def writing(wildcards):
    """For a run that trains on what its policy writes: how that is sampled and judged, as JSON."""
    if STUDY.runs[wildcards.run].get("rows") not in ("self-play", "on-policy"):
        return "{}"
    spec = STUDY.datasets[wildcards.dataset]
    probe = STUDY.config["probe"]
    return json.dumps(
        {
            "sample_tokens": probe["sample_tokens"],
            "temperature": probe["temperature"],
            "next_turn": spec["next_turn"],
            "judge": {
                **{key: STUDY.config["judge"][key] for key in ("provider", "function")},
                "world_seed": spec.get("world_seed"),
            },
        }
    )


def samples_own(dataset):
    """Whether response types of this data set are sampled from the base model."""
    spec = STUDY.datasets[dataset]
    wanted = set(STUDY.config["probe"]["types"]) & set(SAMPLED_TYPES)
    return bool(wanted - set(spec.get("given", [])))


def data_files(wildcards):
    """The local or downloaded files that a data set reads."""
    dataset = wildcards.dataset
    spec = STUDY.datasets[dataset]
    files = [spec] if spec["source"] == "file" else spec.get("probes", [])
    out = []
    for number, file in enumerate(files):
        place = f"datasets.{dataset}" + (
            f".probes.{number}" if file is not spec else ""
        )
        if file["path"]:
            if not Path(file["path"]).is_file():
                fail(
                    f"{place}.path: {file['path']}: no such file; expected rows of the data set"
                )
            out.append(file["path"])
        elif file["url"]:
            out.append(
                f"{RESULTS}/data/{dataset.split('+')[0]}/files/{Path(file['url']).name}"
            )
        else:
            fail(f"{place}: no path and no url; expected one (make DATA=path)")
    return out


def download(wildcards):
    """Where a downloaded file of a data set comes from: its url and sha256."""
    spec = STUDY.datasets[wildcards.dataset]
    files = [spec] if spec["source"] == "file" else spec.get("probes", [])
    return next(f for f in files if f["url"] and Path(f["url"]).name == wildcards.file)


def template_file(wildcards):
    """The file or folder of a data set's chat template, if it is one."""
    template = STUDY.datasets[wildcards.dataset].get("chat_template")
    if template in (None, "hh"):
        return []
    if not Path(template).exists():
        fail(
            f"datasets.{wildcards.dataset}.chat_template: {template}: no such file; expected hh, a "
            "Jinja file, or a model folder"
        )
    return template


def filter_tokenizer(wildcards):
    """The model whose tokenizer a data set's length filter counts with, if it has one."""
    limit = STUDY.datasets[wildcards.dataset].get("filter", {})
    return f"{home(limit['tokenizer'], 0)}/model" if limit.get("max_tokens") else []


def rephrasing_model(wildcards):
    """The model that writes a data set's rephrases."""
    name = STUDY.datasets[wildcards.dataset]["rephrase"]["model"]
    return f"{home(name, STUDY.seeds[0])}/model"


# As long as jobs wait, Snakemake 9.27 looks for work every second, once more for every job that has
# ended (snakemake issue 3804), because of its limit to the rate of jobs: with 250 jobs, a third of
# all CPU time. The default limit is of no use here.
onstart:
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None

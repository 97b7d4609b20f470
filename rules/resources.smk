"""Helper functions: what jobs ask a scheduler for, and hold meanwhile (docs/cluster.md).

Requires the study; makes nothing. Requests are functions of the rules, because a profile's
default-resources are replaced as a whole by those of a site's own profile.
"""

import math

from learning_dynamics.costs import Costs

COSTS = Costs(STUDY)
CLUSTER = STUDY.config["cluster"]
MARGIN = 1.5  # of memory
SLACK = 3  # of time; a run that is cut short nevertheless is saved and resumed
LEAST = 10  # minutes
SAVING = 120  # seconds between the signal and the limit, for a run to save itself


def place_of(gpus):
    """What a job with so many GPUs asks SLURM for, in the words of its executor."""
    partition = CLUSTER["gpu_partition" if gpus else "partition"]
    asked = {"slurm_partition": partition} if partition else {}
    if not gpus:
        return asked
    asked["cards"] = gpus  # for the cap on GPUs in flight, however they are asked for
    if CLUSTER["gres"]:
        return asked | {"gres": f"{CLUSTER['gres']}:{gpus * CLUSTER['units']}"}
    model = CLUSTER["gpu_model"]
    return asked | {"gpu": gpus} | ({"gpu_model": model} if model else {})


def asks(kind):
    """The resources of a rule whose jobs cost what learning_dynamics.costs says of ``kind``."""

    def memory(wildcards, attempt):
        return 100 * math.ceil(
            attempt * MARGIN * COSTS.of(kind, wildcards).memory_mb / 100
        )

    def minutes(wildcards, attempt):
        wanted = max(LEAST, SLACK * COSTS.of(kind, wildcards).seconds / 60)
        return min(math.ceil(attempt * wanted), CLUSTER["longest"])

    return {
        "mem_mb": memory,
        "runtime": minutes,
        "slurm_extra": f"--signal=TERM@{SAVING}",
        **place_of(COSTS.gpus(kind)),
    }


# The kinds of places that jobs ask for, and their GPUs: a preflight looks at each.
PLACES = {"cpu": 0}
if STUDY.config["compute"]["device"] == "cuda":
    PLACES |= {f"gpu{gpus}": gpus for gpus in sorted({1, PROCESSES})}


def asks_of_a_place():
    """The resources of a preflight's job: the signal comes one to two minutes after its start."""
    words = {name for gpus in PLACES.values() for name in place_of(gpus)}

    def word(name):
        return lambda wildcards: place_of(PLACES[wildcards.kind]).get(name)

    return {
        "mem_mb": 4000,
        "runtime": 4,
        "slurm_extra": f"--signal=TERM@{SAVING}",
        **{name: word(name) for name in sorted(words)},
    }


def active_costs():
    """The costs of the active runs: one seed's."""
    active = STUDY.config["active"]
    return [
        COSTS.of("finetune", {"dataset": dataset, "model": model, "run": run})
        for dataset in active["datasets"]
        for model in active["models"]
        for run in active["runs"]
    ]


def largest_gpu_mb(wildcards):
    """GPU memory of the largest active run."""
    return round(max(cost.gpu_memory_mb for cost in active_costs()))


def disk_of_runs_mb(wildcards):
    """What the active runs leave behind."""
    return round(sum(cost.disk_mb for cost in active_costs()) * len(STUDY.seeds))


def fetched(wildcards):
    """What local rules download of the active models and data sets."""
    active = STUDY.config["active"]
    hubs = [m for m in active["models"] if STUDY.models[m]["source"] == "hub"]
    pairs = [
        f"{RESULTS}/data/{dataset}/pairs.parquet" for dataset in active["datasets"]
    ]
    return [*(f"{home(model, 0)}/model" for model in hubs), *pairs]

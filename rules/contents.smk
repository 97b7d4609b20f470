"""Helper functions: what figures and tables read, and what their scripts must know of the study.

Requires the study and its paths; makes nothing.
"""


def trajectories(figure, roles=None):
    """The trajectories that a figure's runs (or those of some roles) leave behind, by seed."""
    spec = STUDY.config["figures"][figure]
    runs = spec["runs"].values() if isinstance(spec["runs"], dict) else spec["runs"]
    return [
        f"{run_folder(spec['dataset'], spec['model'], run, seed)}/trajectory.parquet"
        for run in ([spec["runs"][role] for role in roles] if roles else runs)
        for seed in STUDY.seeds_of(figure)
    ]


def card_probes():
    """The probe tables that the data card describes: one seed's."""
    return probe_tables(CARD["dataset"], CARD["model"], STUDY.seeds[0])


def confound_trajectories():
    """What figures/confounds reads: each switch's runs, and the runs on one response type."""
    spec = STUDY.config["figures"]["confounds"]
    base, switches = spec["dataset"], spec["switches"]
    datasets = [base, *(f"{base}+{switch}" for switch in switches)]
    wanted = [(d, run) for d in datasets for run in spec["runs"].values()]
    wanted += [
        (d, run) for d in (base, f"{base}+leading_space") for run in spec["trained_on"]
    ]
    return [
        f"{run_folder(dataset, spec['model'], run, seed)}/trajectory.parquet"
        for dataset, run in wanted
        for seed in STUDY.seeds_of("confounds")
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
    spec = STUDY.config["figures"][figure]
    confounds = STUDY.datasets[spec["dataset"]]["confounds"]
    known = {**spec, "study": STUDY.name, "seeds": STUDY.seeds_of(figure)}
    if "trained_on" in spec:
        known["trained_on"] = {
            STUDY.runs[run]["target"]: run for run in spec["trained_on"]
        }
    known["counts_end"] = confounds["end_of_text"] == "as_published"
    return json.dumps(known)


def update_files(figure, name, model=None):
    """A file of each run of a figure, by update and seed, where the run leaves it."""
    spec = STUDY.config["figures"][figure]
    return [
        f"{run_folder(spec['dataset'], model or spec['model'], run, seed)}/{name}"
        for run in spec["runs"]
        for seed in STUDY.seeds_of(figure)
        if name != "proxies.parquet" or STUDY.runs[run]["proxies"]
    ]


def run_files(figure, name):
    """A file of every run of a figure, by role and seed."""
    spec = STUDY.config["figures"][figure]
    return [
        f"{run_folder(spec['dataset'], spec['model'], run, seed)}/{name}"
        for run in spec["runs"].values()
        for seed in STUDY.seeds_of(figure)
    ]


def base_models(figure, model=None):
    """The base models of a figure, whose config.json says how many logits there are."""
    name = model or STUDY.config["figures"][figure]["model"]
    return list(
        dict.fromkeys(f"{home(name, seed)}/model" for seed in STUDY.seeds_of(figure))
    )


def proxy_study(figure, model=None):
    """What the scripts must know, as JSON: the runs by update, and which of them were measured."""
    known = json.loads(figure_study(figure))
    if model:
        known["model"] = model
    if figure != "confidence":
        known["updates"] = STUDY.updates(figure)
        known["measured"] = [r for r in known["runs"] if STUDY.runs[r]["proxies"]]
    known["homes"] = {
        seed: STUDY.home(known["model"], seed) for seed in STUDY.seeds_of(figure)
    }
    return json.dumps(known)


def file_of_model(kind, dataset, model, state, seed):
    """Where a table made from a saved model lies: its answers, its mutual kernel (``state`` as
    Study.states gives it)."""
    name, epoch = state
    if name == "base":
        return f"{home(model, seed)}/{kind}-{dataset}.parquet"
    folder = run_folder(dataset, model, name, seed)
    return f"{folder}/{kind}{f'-epoch{epoch}' if epoch else ''}.parquet"


def answers_of(figure):
    """The answers that a figure reads: run, epoch, seed and path of each."""
    spec = STUDY.config["figures"][figure]
    return [
        {
            "run": run,
            "epoch": epoch,
            "seed": seed,
            "path": file_of_model(
                "answers", spec["dataset"], spec["model"], state, seed
            ),
        }
        for (run, epoch), state in STUDY.states(figure).items()
        for seed in STUDY.seeds_of(figure)
    ]


def mutual_files():
    """The mutual kernels that figures/kernel reads: stage, seed and path of each."""
    spec = STUDY.config["figures"]["kernel"]
    return [
        {
            "stage": stage,
            "seed": seed,
            "path": file_of_model(
                "mutual", spec["dataset"], spec["model"], state, seed
            ),
        }
        for stage, state in STUDY.stages().items()
        for seed in STUDY.seeds_of("kernel")
    ]


def written_study(figure):
    """What a script must know of a figure that reads answers, as JSON."""
    spec = STUDY.config["figures"][figure]
    return json.dumps(
        {
            **json.loads(figure_study(figure)),
            "answers": answers_of(figure),
            "world_seed": STUDY.datasets[spec["dataset"]].get("world_seed"),
        }
    )


DIGITS_SEEDS = STUDY.seeds[: STUDY.config["digits"]["seeds"]]
DIGITS_FIGURES = {
    figure: STUDY.config["figures"][figure]["networks"]
    for figure in ("mnist", "entk_mnist")
    if figure in STUDY.config["figures"]
}


def digits_spec(*keys):
    """A function: the keys of section digits, with what is one network's, as JSON."""

    def spec(wildcards):
        section = {key: STUDY.config["digits"][key] for key in keys}
        if "network" in wildcards.keys():
            section["lr"] = section["lr"][wildcards.network]
        if "entk" in section:
            epochs = section["entk"]["epochs"][wildcards.network]
            section["entk"] = {**section["entk"], "epochs": epochs}
        return json.dumps(section)

    return spec


def digits_tables(figure, *names):
    """The tables that a digits figure reads, of all its networks and seeds."""
    return expand(
        f"{DIGITS_RUN}/{{name}}.parquet",
        network=DIGITS_FIGURES.get(figure, []),
        seed=DIGITS_SEEDS,
        name=names,
    )


def digits_study(figure):
    """What a digits figure's script must know of the study, as JSON."""
    section = STUDY.config["digits"]
    networks = DIGITS_FIGURES[figure]
    return json.dumps(
        {
            "study": STUDY.name,
            "seeds": DIGITS_SEEDS,
            "dataset": section["hub"] or "scikit-learn digits",
            "model": ", ".join(networks),
            "networks": networks,
            "step_lr": section["one_step"]["lr"],
            "dense": section["entk"]["dense"],
        }
    )


def claim_roles(entry):
    """The runs of one data set × model, by role: those of figures.squeeze and those of claims."""
    known = {
        **STUDY.config["figures"]["squeeze"]["runs"],
        **STUDY.config["claims"]["roles"],
    }
    return {role: known[role] for role in entry.get("roles", known)}


def claim_columns():
    """What the claims' script must know of every data set × model."""
    squeeze = STUDY.config["figures"]["squeeze"]
    winrate = STUDY.config["figures"].get("winrate", {})
    place = lambda entry: (entry["dataset"], entry["model"])
    columns = []
    for entry in STUDY.config["claims"]["evaluate"]:
        roles = claim_roles(entry)
        columns.append(
            {
                "dataset": entry["dataset"],
                "model": entry["model"],
                "runs": roles,
                "followed": {
                    r: n for r, n in roles.items() if STUDY.runs[n]["influence"]
                },
                "text": entry.get("text"),
                "one_step": place(entry) == (squeeze["dataset"], squeeze["model"]),
                "win_rates": place(entry)
                == (winrate.get("dataset"), winrate.get("model")),
                "rates": {role: STUDY.runs[run]["lr"] for role, run in roles.items()},
                "peers": {
                    other["model"]: {
                        role: run
                        for role, run in claim_roles(other).items()
                        if role in ("sft", "dpo")
                    }
                    for other in STUDY.config["claims"]["evaluate"]
                    if other["dataset"] == entry["dataset"] and other is not entry
                },
            }
        )
    return columns


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

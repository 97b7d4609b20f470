"""What must go together in a config, beyond its schema.

Data sets, probe, judge and digits are completed and checked before the runs are resolved; what
refers to data sets, models and runs is checked afterwards. Each failure is one line of
:class:`learning_dynamics.config.Sources`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from learning_dynamics.config import Sources
from learning_dynamics.digits import EMBEDDED_ROWS
from learning_dynamics.probe import RESPONSE_TYPES, SAMPLED_TYPES

if TYPE_CHECKING:
    from learning_dynamics.study import Study


def complete(config: dict, sources: Sources) -> None:
    """Fill in what depends on the rest of the config, and check what goes together.

    Raises:
        InputError: naming file, field, value and expectation.
    """
    for name, entry in config["datasets"].items():
        _dataset(name, entry, config, sources)
    _probe(config, sources)
    _judge(config, sources)
    _digits(config, sources)


def check(study: Study, sources: Sources) -> None:
    """Check what refers to data sets, models and runs.

    Raises:
        InputError: naming file, field, value and expectation.
    """
    _references(study, sources)
    for name in study.runs:
        _ancestry(name, study, sources)
    _figures(study, sources)
    _stages(study, sources)
    _chains(study, sources)
    _claims(study, sources)


def _dataset(name: str, entry: dict, config: dict, sources: Sources) -> None:
    if entry["source"] == "file" and not (entry["path"] or entry["url"]):
        entry["path"] = config["data"]
    if "given" in entry and entry["confounds"]["initial_origin"] == "as_published":
        entry["given"] = list(dict.fromkeys([*entry["given"], *SAMPLED_TYPES]))
    names = [Path(file["url"]).name for file in entry.get("probes", []) if file["url"]]
    for url_name in names:
        if names.count(url_name) > 1:
            sources.fail(
                ("datasets", name, "probes"),
                f"{url_name!r}: two downloads of this name; expected distinct ones",
            )
    at, rephrase = ("datasets", name, "rephrase"), entry["rephrase"]
    provider, model = rephrase["provider"], rephrase["model"]
    if provider == "toyworld" and entry["source"] != "toyworld":
        sources.fail((*at, "provider"), "'toyworld': expected a data set with source toyworld")
    if provider == "openai" and not model:
        sources.fail((*at, "model"), "none given; expected the endpoint's name of a model")
    if provider == "transformers":
        sources.known((*at, "model"), model, config["models"])
    if entry.get("format", "columns") != "columns":
        for key in ("columns", "prompt_template", "chat_template"):
            if entry[key]:
                sources.fail(
                    ("datasets", name, key),
                    f"{entry[key]!r}: format {entry['format']!r} does not read it; expected "
                    "format: columns",
                )
    limit = entry.get("filter", {})
    if limit.get("max_tokens"):
        hubs = {m: spec for m, spec in config["models"].items() if spec["source"] == "hub"}
        sources.known(("datasets", name, "filter", "tokenizer"), limit["tokenizer"], hubs)


def _probe(config: dict, sources: Sources) -> None:
    own = config["probe"]["own_types"]
    for name, entry in own.items():
        if ("ask" in entry) == ("function" in entry):
            sources.fail(("probe", "own_types", name), f"{entry}: expected function or ask, one")
        if name in RESPONSE_TYPES:
            sources.fail(("probe", "own_types", name), "a type of the paper; expected a new name")
    for name in config["probe"]["types"]:
        sources.known(("probe", "types"), name, dict.fromkeys([*RESPONSE_TYPES, *own]))


def _judge(config: dict, sources: Sources) -> None:
    provider, function = config["judge"]["provider"], config["judge"]["function"]
    if provider == "function" and function is None:
        wanted = "judge.function beside it, file.py:name"
        sources.fail(("judge", "provider"), f"'function': expected {wanted}")
    if provider != "function" and function is not None:
        sources.fail(("judge", "function"), f"{function!r}: expected provider: function with it")
    model = config["judge"]["model"]
    if provider == "openai" and not model:
        sources.fail(("judge", "model"), "none given; expected the endpoint's name of a model")
    if provider == "transformers":
        sources.known(("judge", "model"), model, config["models"])
    published = config["judge"]["protocol"] == "as_published"
    for name, values in (("temperature", (0.0, 0.7)), ("attempts", (2, 1))):
        if config["judge"][name] is None:
            config["judge"][name] = values[published]


def _digits(config: dict, sources: Sources) -> None:
    digits = config["digits"]
    rows = digits["train_rows"] + digits["test_rows"]
    if digits["source"] == "hub":
        for key, what in (("hub", "the data set's name"), ("revision", "its pinned commit")):
            if digits[key] is None:
                sources.fail(("digits", "source"), f"'hub': expected digits.{key} too, {what}")
    elif rows > EMBEDDED_ROWS:
        sources.fail(
            ("digits", "train_rows"),
            f"{digits['train_rows']}: with test_rows {rows} images; expected at most "
            f"{EMBEDDED_ROWS}, what scikit-learn ships",
        )


def _judged(study: Study, sources: Sources) -> None:
    """A run asks the toy world, of its own answers alone, or a function."""
    judged = [r for r in study.config["active"]["runs"] if study.runs[r]["rows"] == "on-policy"]
    provider = study.config["judge"]["provider"]
    for name in study.config["active"]["datasets"] if judged else []:
        if provider in ("openai", "transformers") or not study.can_judge(name):
            wanted = "function" + ", or toyworld" * (provider != "toyworld")
            sources.fail(
                ("judge", "provider"),
                f"{provider!r}: cannot judge run {judged[0]!r} on data set {name!r}; expected "
                f"{wanted}",
            )


def _references(study: Study, sources: Sources) -> None:
    known = {"datasets": study.datasets, "models": study.models, "runs": study.runs}
    for kind, names in study.config["active"].items():
        for name in names:
            sources.known(("active", kind), name, known[kind])
    _judged(study, sources)
    for name, model in study.models.items():
        if model["source"] == "pretrain":
            sources.known(("models", name, "corpus"), model["corpus"], study.datasets)
        if (model["max_prompt_length"] or 0) >= model["max_length"]:
            sources.fail(
                ("models", name, "max_prompt_length"),
                f"{model['max_prompt_length']}: leaves no room for a response; expected less "
                f"than max_length = {model['max_length']}",
            )
    if "base" in study.runs:
        sources.fail(("runs", "base"), "the name of the base model; expected another name")


def _figures(study: Study, sources: Sources) -> None:
    for figure, spec in study.config["figures"].items():
        for field, known in (("dataset", study.datasets), ("model", study.models)):
            several = f"{field}s" in spec
            one = [spec[field]] if field in spec else []  # figures of digits name neither
            for name in spec[f"{field}s"] if several else one:
                sources.known(("figures", figure, field + "s" * several), name, known)
        for name, runs in spec.get("comparisons", {}).items():
            for run in runs:
                sources.known(("figures", figure, "comparisons", name), run, study.runs)
        for field in ("runs", "trained_on"):
            runs = spec.get(field, [])
            for run in runs.values() if isinstance(runs, dict) else runs:
                sources.known(("figures", figure, field), run, study.runs)
        if spec.get("kernel"):
            field = ("figures", figure, "kernel", "model")
            sources.known(field, spec["kernel"]["model"], study.models)
        if figure in ("entk_proxies", "response_space"):
            study.updates(figure)
    for figure, lacks in {"tokens": "keeps no log-probs of tokens",
                          "influence": "measures no influence"}.items():  # fmt: skip
        for role, run in study.config["figures"].get(figure, {}).get("runs", {}).items():
            if not study.runs[run][figure]:
                sources.fail(
                    ("figures", figure, "runs", role),
                    f"{run!r}: {lacks}; expected a run with {figure}: {{}}",
                )


def _stages(study: Study, sources: Sources) -> None:
    for place, (name, (run, epoch)) in enumerate(study.stages().items()):
        field = ("figures", "kernel", "stages", place)
        if run != "base":
            sources.known(field, run, study.runs, also="base")
        end = study.runs[run]["epochs"] if run != "base" else 0
        if epoch is not None and not 0 < float(epoch) <= end:
            sources.fail(
                field,
                f"{name!r}: expected an epoch above 0 and at most {end}, where {run!r} ends",
            )


def _chains(study: Study, sources: Sources) -> None:
    """Where a figure shows what came before a run, something must have."""
    figures = study.config["figures"]
    shown = [
        ("extend", role, run) for role, run in figures.get("extend", {}).get("runs", {}).items()
    ]
    shown += [("sft", "then", figures["sft"]["runs"]["then"])] if "sft" in figures else []
    for figure, role, run in shown:
        if study.parent(run)[0] == "base":
            sources.fail(
                ("figures", figure, "runs", role),
                f"{run!r}: starts from base; expected a run that starts from another run",
            )


def _claims(study: Study, sources: Sources) -> None:
    spec = study.config["claims"]
    roles = {**study.config["figures"]["squeeze"]["runs"], **spec["roles"]}
    for role, run in spec["roles"].items():
        sources.known(("claims", "roles", role), run, study.runs)
    for entry in spec["evaluate"]:
        sources.known(("claims", "evaluate"), entry["dataset"], study.datasets)
        sources.known(("claims", "evaluate"), entry["model"], study.models)
        for role in entry.get("roles", []):
            sources.known(("claims", "evaluate"), role, roles)


def _ancestry(name: str, study: Study, sources: Sources) -> None:
    seen, current = [name], name
    while True:
        parent, epoch = study.parent(current)
        field = (*study.fields[current], "init")
        if parent == "base":
            return
        sources.known(field, parent, study.runs, also="base")
        if epoch is not None and not 0 < float(epoch) <= study.runs[parent]["epochs"]:
            sources.fail(
                field,
                f"{study.runs[current]['init']!r}: expected an epoch above 0 and at most "
                f"{study.runs[parent]['epochs']}, where run {parent!r} ends",
            )
        if parent in seen:
            cycle = seen[seen.index(parent) :]
            last = max(cycle, key=lambda run: sources.origin(("runs", run, "init")))
            sources.fail(
                ("runs", last, "init"),
                f"{study.runs[last]['init']!r}: cyclic init ({' -> '.join([*cycle, parent])}); "
                "expected a chain to base",
            )
        seen.append(parent)
        current = parent

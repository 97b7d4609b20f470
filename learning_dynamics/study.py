"""A study: the validated config and the graph of runs it describes.

Nothing here imports torch: Snakemake calls it while it plans. Config files alone are checked by
``python -m learning_dynamics.study config.yaml studies/<name>.yaml``.
"""

import copy
import itertools
import re
import sys
from functools import cached_property
from pathlib import Path

from learning_dynamics.algorithms import Algorithm
from learning_dynamics.config import SCHEMA, Sources, load_config, read_yaml
from learning_dynamics.digits import EMBEDDED_ROWS
from learning_dynamics.errors import run_script
from learning_dynamics.known import METRICS, TRAJECTORY, facts_of
from learning_dynamics.probe import RESPONSE_TYPES, SAMPLED_TYPES
from learning_dynamics.runs import Runs

__all__ = ["SWITCHES", "Study", "load_config"]
# The faults of the published probing set that a data set may be given back, one by one
# (docs/probing.md); the value is what the figure calls it.
SWITCHES = {
    "leading_space": "leading space",
    "row_sampling": "row sampling",
    "irr_test_origin": "origin of irr_test",
    "initial_origin": "origin of initial",
    "truncation": "truncation",
    "end_of_text": "end-of-text",
}


class Study:
    """A study's config, complete and consistent.

    Args:
        config: the merged mapping, as Snakemake or :func:`load_config` gives it.
        files: the config files it was merged from, base first; used to name the one at fault.

    Raises:
        InputError: naming file, field, value and expectation of the first thing that is wrong.
    """

    def __init__(self, config: dict, files: list[str] | None = None) -> None:
        schema = read_yaml(SCHEMA)
        self._sources = Sources(config, files)
        self._fail, self._known = self._sources.fail, self._sources.known
        self._sources.check(config, schema, schema, ())
        for kind, prefix in (("datasets", "dataset"), ("models", "model")):
            for name, entry in config[kind].items():
                self._sources.check_kind(entry, (kind, name), prefix, schema)
        self.config = config
        self.name: str = config["study"]
        self.seeds: list[int] = config["seeds"]
        self.datasets: dict[str, dict] = config["datasets"]
        self.models: dict[str, dict] = config["models"]
        self._add_variants()
        for name, entry in self.datasets.items():
            self._complete(name, entry)
        self._check_probe()
        self._check_judge()
        self._check_digits()
        self._runs = Runs(config, schema, self._sources)
        # Where a run is written: under ``runs``, or as one of a figure's grid.
        self._fields = {name: ("runs", name) for name in config["runs"]}
        self.runs = {n: self._runs.resolved(("runs", n), e) for n, e in config["runs"].items()}
        self._grids = {figure: self._runs.grid(figure) for figure in ("algorithms", "forget")}
        for figure, runs in self._grids.items():
            self._fields |= dict.fromkeys(runs, ("figures", figure))
            for name, (_, entry) in runs.items():
                self.runs[name] = self._runs.resolved(("figures", figure), entry)
        self._check_references()
        self._check_claims()

    # -- data sets ---------------------------------------------------------------------------

    def texts(self, dataset: str) -> dict:
        """How a data set's texts are read, cut and continued: what model jobs must know of it."""
        keys = ("confounds", "format", "chat_template", "next_turn", "self_rephrase",
                "end_of_turn")  # fmt: skip
        return {k: v for k, v in self.datasets[dataset].items() if k in keys}

    def published_runs(self) -> dict[str, str]:
        """The runs below the configured folder, by name: result folders of the reference
        implementation, and folders with a trajectory of anyone's training."""
        folder = self.config["published"]
        if folder is None:
            if not self.config["claims"]["evaluate"]:
                self._fail(
                    ("claims", "evaluate"),
                    "[]: this study shows imported runs alone, and there are none; expected "
                    "published: a folder of them (make PUBLISHED=folder)",
                )
            return {}
        holds = [path.parent for name in (METRICS, TRAJECTORY) for path in
                 Path(folder).glob(f"*/{name}")]  # fmt: skip
        found = sorted(set(holds))
        if not found:
            self._fail(
                ("published",),
                f"{folder!r}: holds no run; expected folders with a {METRICS} or a {TRAJECTORY}",
            )
        for name in (path.name for path in found):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
                self._fail(
                    ("published",),
                    f"{folder!r}: run {name!r}: expected a folder named in letters, digits, '.', "
                    "'_' and '-', a letter or digit first, 100 at most",
                )
        return {path.name: str(path) for path in found}

    def published_facts(self) -> dict[str, dict]:
        """What is known of those runs, by name, as planning and claims need it."""
        known = {name: facts_of(folder) for name, folder in self.published_runs().items()}
        keys = ("own", "group", "model", "role", "algorithm", "lr", "seed")
        return {name: {k: one[k] for k in keys if k in one} for name, one in known.items()}

    def published_of(self, algorithm: str) -> list[str]:
        """The configured imported runs of ``algorithm`` (a fork's own ``…_dpo`` is a dpo), and all
        those that are not known to be of SFT or DPO."""
        known = {n: str(one.get("algorithm")) for n, one in self.published_facts().items()}
        return [
            name
            for name, one in known.items()
            if one.endswith(algorithm) or not one.endswith(("sft", "dpo"))
        ]

    def own_functions(self) -> list[str]:
        """The files that hold the user's own response types in use."""
        own = self.config["probe"]["own_types"]
        used = [own[k]["function"] for k in self.config["probe"]["types"] if k in own and
                "function" in own[k]]  # fmt: skip
        return sorted({place.rpartition(":")[0] for place in used})

    def _add_variants(self) -> None:
        """Give figures.confounds its data sets: ``<dataset>+<switch>`` is the same data set with
        one switch as published."""
        spec = self.config["figures"].get("confounds")
        if spec is None:
            return
        self._known(("figures", "confounds", "dataset"), spec["dataset"], self.datasets)
        confounds = self.datasets[spec["dataset"]]["confounds"]
        if confounds["leading_space"] == "as_published":
            self._fail(
                ("figures", "confounds", "dataset"),
                f"{spec['dataset']!r}: its leading_space is as published; expected a data set "
                "where it is corrected, to compare with",
            )
        spec["switches"] = [s for s in spec["switches"] if confounds[s] == "corrected"]
        for switch in dict.fromkeys(["leading_space", *spec["switches"]]):
            entry = copy.deepcopy(self.datasets[spec["dataset"]])
            entry["confounds"][switch] = "as_published"
            self.datasets[f"{spec['dataset']}+{switch}"] = entry

    def _complete(self, name: str, entry: dict) -> None:
        """Fill in what depends on the rest of the config, and check what goes together."""
        if entry["source"] == "file" and not (entry["path"] or entry["url"]):
            entry["path"] = self.config["data"]
        if "given" in entry and entry["confounds"]["initial_origin"] == "as_published":
            entry["given"] = list(dict.fromkeys([*entry["given"], *SAMPLED_TYPES]))
        names = [Path(file["url"]).name for file in entry.get("probes", []) if file["url"]]
        for url_name in names:
            if names.count(url_name) > 1:
                self._fail(
                    ("datasets", name, "probes"),
                    f"{url_name!r}: two downloads of this name; expected distinct ones",
                )
        at, rephrase = ("datasets", name, "rephrase"), entry["rephrase"]
        provider, model = rephrase["provider"], rephrase["model"]
        if provider == "toyworld" and entry["source"] != "toyworld":
            self._fail((*at, "provider"), "'toyworld': expected a data set with source toyworld")
        if provider == "openai" and not model:
            self._fail((*at, "model"), "none given; expected the endpoint's name of a model")
        if provider == "transformers":
            self._known((*at, "model"), model, self.models)
        if entry.get("format", "columns") != "columns":
            for key in ("columns", "prompt_template", "chat_template"):
                if entry[key]:
                    self._fail(
                        ("datasets", name, key),
                        f"{entry[key]!r}: format {entry['format']!r} does not read it; expected "
                        "format: columns",
                    )
        limit = entry.get("filter", {})
        if limit.get("max_tokens"):
            hubs = {m: spec for m, spec in self.models.items() if spec["source"] == "hub"}
            self._known(("datasets", name, "filter", "tokenizer"), limit["tokenizer"], hubs)

    def _check_probe(self) -> None:
        own = self.config["probe"]["own_types"]
        for name, entry in own.items():
            if ("ask" in entry) == ("function" in entry):
                self._fail(("probe", "own_types", name), f"{entry}: expected function or ask, one")
            if name in RESPONSE_TYPES:
                self._fail(("probe", "own_types", name), "a type of the paper; expected a new name")
        for name in self.config["probe"]["types"]:
            self._known(("probe", "types"), name, dict.fromkeys([*RESPONSE_TYPES, *own]))

    # -- the graph of runs -------------------------------------------------------------------

    def parent(self, run: str) -> tuple[str, str | None]:
        """``(parent, epoch)`` of a run: parent is ``base`` or a run; epoch None means its end."""
        name, _, epoch = self.runs[run]["init"].partition("@")
        return name, epoch or None

    def chain(self, run: str) -> list[tuple[str, str | None]]:
        """The runs that lead to ``run``, first to last and itself included, each with the epoch at
        which the next one picks it up (None: its end)."""
        links: list[tuple[str, str | None]] = [(run, None)]
        while (parent := self.parent(links[0][0]))[0] != "base":
            links.insert(0, parent)
        return links

    def sft_epochs(self, run: str) -> float:
        """The epochs of training before ``run``: those of all runs that lead to it."""
        before = self.chain(run)[:-1]
        return sum(float(epoch or self.runs[name]["epochs"]) for name, epoch in before)

    def checkpoints(self, run: str) -> list[str]:
        """The epochs of ``run`` at which some run starts or answers are written, besides its end,
        in order."""
        return self._saved.get(run, [])

    @cached_property
    def _saved(self) -> dict[str, list[str]]:
        """:meth:`checkpoints`, by run: planning asks for every job's."""
        asked = [self.states(figure).values() for figure in ("winrate", "hallucination")]
        found: dict[str, set[str]] = {}
        for name, epoch in [*map(self.parent, self.runs), *itertools.chain(*asked)]:
            if epoch:
                found.setdefault(name, set()).add(epoch)
        return {name: sorted(epochs, key=float) for name, epochs in found.items()}

    def states(self, figure: str) -> dict[tuple[str, float], tuple[str, str | None]]:
        """The saved models whose answers figures.winrate or figures.hallucination reads.

        By run and epoch: the run whose model it is (or ``base``) and its epoch, None for its end.
        Epoch 0 is the model that a run starts from; epochs behind a run's end are left out.
        """
        spec = self.config["figures"].get(figure, {})
        if figure == "winrate":
            runs = itertools.chain(*spec.get("comparisons", {}).values())
        else:
            runs = spec.get("runs", {}).values()
        found = {}
        for run, epoch in itertools.product(dict.fromkeys(runs), spec.get("epochs", [])):
            end = self.runs[run]["epochs"]
            if epoch == 0:
                found[run, epoch] = self.parent(run)
            elif epoch <= end:
                found[run, epoch] = run, None if epoch == end else f"{epoch:g}"
        return found

    def runs_of(self, algorithm: str) -> list[str]:
        """The runs that use ``algorithm``."""
        return [name for name, run in self.runs.items() if run["algorithm"] == algorithm]

    def instances(self, algorithm: str) -> list[tuple[bool, list[str]]]:
        """``(whether single updates are measured, runs)`` of each instance of the finetuning rule:
        a rule's outputs are fixed, and those runs leave one more file behind."""
        found: dict[bool, list[str]] = {}
        for name in self.runs_of(algorithm):
            found.setdefault(bool(self.runs[name]["proxies"]), []).append(name)
        return list(found.items())

    @property
    def algorithms(self) -> dict[str, str]:
        """The algorithms in use and a short, unique name for each, in the order of their first run:
        the function's, with a number where two files hold a function of the same name."""
        used = list(dict.fromkeys(run["algorithm"] for run in self.runs.values()))
        return {reference: self._runs.short[reference] for reference in used}

    def algorithm(self, run: str) -> Algorithm:
        """The algorithm of a run."""
        return self._runs.algorithm(self._fields[run], self.runs[run]["algorithm"])

    def needs_reference(self, run: str) -> bool:
        """Whether a run reads the reference log-probs of the training pairs. Those of other rows
        are computed in the run."""
        spec = self.runs[run]
        paired = spec["rows"] == "pairs" and spec.get("target") != "irrelevant"
        return self.algorithm(run).reference and paired

    def grid(self) -> list[dict]:
        """The runs of figures.algorithms: ``run, algorithm`` (short name), ``lr, settings, labels``
        (given or coin)."""
        return [fact for fact, _ in self._grids["algorithms"].values()]

    def forget_runs(self) -> list[dict]:
        """The runs of figures.forget: ``run, algorithm`` (short name), ``lr, settings, target``."""
        return [fact for fact, _ in self._grids["forget"].values()]

    def updates(self, figure: str) -> dict[str, str]:
        """The runs of figures.entk_proxies or response_space by what they train on: the target of
        a loss of one response, the algorithm of a loss of pairs."""
        found: dict[str, str] = {}
        for run in self.config["figures"][figure]["runs"]:
            update = self.runs[run].get("target") or self.algorithms[self.runs[run]["algorithm"]]
            if update in found:
                self._fail(
                    ("figures", figure, "runs"),
                    f"{run!r}: trains on {update} as {found[update]!r} does; expected one run per "
                    "update type",
                )
            found[update] = run
        return found

    def kernel(self) -> dict | None:
        """Settings of the exact kernel that figures.entk_proxies compares with, if it does."""
        return self.config["figures"].get("entk_proxies", {}).get("kernel")

    def seeds_of(self, figure: str) -> list[int]:
        """The seeds that a figure takes: the study's, or the first so many of them."""
        return self.seeds[: self.config["figures"][figure].get("seeds")]

    def home(self, model: str, seed: int | str) -> str:
        """Folder of a base model below ``models/``: models of the hub have no seed."""
        return f"{model}/seed{seed}" if self.models[model]["source"] == "pretrain" else model

    def model_of_home(self, home: str) -> tuple[str, int]:
        """The model and the seed (0 for models of the hub) of a folder given by :meth:`home`."""
        model, _, seed = home.partition("/seed")
        return model, int(seed or 0)

    # -- validation --------------------------------------------------------------------------

    def _check_judge(self) -> None:
        provider, function = self.config["judge"]["provider"], self.config["judge"]["function"]
        if provider == "function" and function is None:
            wanted = "judge.function beside it, file.py:name"
            self._fail(("judge", "provider"), f"'function': expected {wanted}")
        if provider != "function" and function is not None:
            self._fail(("judge", "function"), f"{function!r}: expected provider: function with it")
        model = self.config["judge"]["model"]
        if provider == "openai" and not model:
            self._fail(("judge", "model"), "none given; expected the endpoint's name of a model")
        if provider == "transformers":
            self._known(("judge", "model"), model, self.models)
        published = self.config["judge"]["protocol"] == "as_published"
        for name, values in (("temperature", (0.0, 0.7)), ("attempts", (2, 1))):
            if self.config["judge"][name] is None:
                self.config["judge"][name] = values[published]

    def can_judge(self, dataset: str) -> bool:
        """Whether the study has a judge of a data set's answers: the toy world judges its own."""
        own = self.datasets[dataset]["source"] == "toyworld"
        return own or self.config["judge"]["provider"] != "toyworld"

    def no_judge(self) -> str:
        """Why figures.winrate cannot be had; nothing where it can, or is not asked for."""
        spec = self.config["figures"].get("winrate")
        if spec is None or self.can_judge(spec["dataset"]):
            return ""
        return (
            "figures/winrate: judge.provider 'toyworld' cannot judge data set "
            f"{spec['dataset']!r}; expected openai, transformers or function"
        )

    def _check_digits(self) -> None:
        digits = self.config["digits"]
        rows = digits["train_rows"] + digits["test_rows"]
        if digits["source"] == "hub":
            for key, what in (("hub", "the data set's name"), ("revision", "its pinned commit")):
                if digits[key] is None:
                    self._fail(("digits", "source"), f"'hub': expected digits.{key} too, {what}")
        elif rows > EMBEDDED_ROWS:
            self._fail(
                ("digits", "train_rows"),
                f"{digits['train_rows']}: with test_rows {rows} images; expected at most "
                f"{EMBEDDED_ROWS}, what scikit-learn ships",
            )

    def _check_judged(self) -> None:
        """A run asks the toy world, of its own answers alone, or a function."""
        judged = [r for r in self.config["active"]["runs"] if self.runs[r]["rows"] == "on-policy"]
        provider = self.config["judge"]["provider"]
        for name in self.config["active"]["datasets"] if judged else []:
            if provider in ("openai", "transformers") or not self.can_judge(name):
                wanted = "function" + ", or toyworld" * (provider != "toyworld")
                self._fail(
                    ("judge", "provider"),
                    f"{provider!r}: cannot judge run {judged[0]!r} on data set {name!r}; expected "
                    f"{wanted}",
                )

    def _check_references(self) -> None:
        known = {"datasets": self.datasets, "models": self.models, "runs": self.runs}
        for kind, names in self.config["active"].items():
            for name in names:
                self._known(("active", kind), name, known[kind])
        self._check_judged()
        for name, model in self.models.items():
            if model["source"] == "pretrain":
                self._known(("models", name, "corpus"), model["corpus"], self.datasets)
            if (model["max_prompt_length"] or 0) >= model["max_length"]:
                self._fail(
                    ("models", name, "max_prompt_length"),
                    f"{model['max_prompt_length']}: leaves no room for a response; expected less "
                    f"than max_length = {model['max_length']}",
                )
        if "base" in self.runs:
            self._fail(("runs", "base"), "the name of the base model; expected another name")
        for name in self.runs:
            self._check_ancestry(name)
        for figure, spec in self.config["figures"].items():
            for field, known in (("dataset", self.datasets), ("model", self.models)):
                several = f"{field}s" in spec
                one = [spec[field]] if field in spec else []  # figures of digits name neither
                for name in spec[f"{field}s"] if several else one:
                    self._known(("figures", figure, field + "s" * several), name, known)
            for name, runs in spec.get("comparisons", {}).items():
                for run in runs:
                    self._known(("figures", figure, "comparisons", name), run, self.runs)
            for field in ("runs", "trained_on"):
                runs = spec.get(field, [])
                for run in runs.values() if isinstance(runs, dict) else runs:
                    self._known(("figures", figure, field), run, self.runs)
            if spec.get("kernel"):
                field = ("figures", figure, "kernel", "model")
                self._known(field, spec["kernel"]["model"], self.models)
            if figure in ("entk_proxies", "response_space"):
                self.updates(figure)
        self._check_chains()

    def _check_chains(self) -> None:
        """Where a figure shows what came before a run, something must have."""
        figures = self.config["figures"]
        shown = [
            ("extend", role, run) for role, run in figures.get("extend", {}).get("runs", {}).items()
        ]
        shown += [("sft", "then", figures["sft"]["runs"]["then"])] if "sft" in figures else []
        for figure, role, run in shown:
            if self.parent(run)[0] == "base":
                self._fail(
                    ("figures", figure, "runs", role),
                    f"{run!r}: starts from base; expected a run that starts from another run",
                )

    def _check_claims(self) -> None:
        spec = self.config["claims"]
        roles = {**self.config["figures"]["squeeze"]["runs"], **spec["roles"]}
        for role, run in spec["roles"].items():
            self._known(("claims", "roles", role), run, self.runs)
        for entry in spec["evaluate"]:
            self._known(("claims", "evaluate"), entry["dataset"], self.datasets)
            self._known(("claims", "evaluate"), entry["model"], self.models)
            for role in entry.get("roles", []):
                self._known(("claims", "evaluate"), role, roles)

    def _check_ancestry(self, name: str) -> None:
        seen, current = [name], name
        while True:
            parent, epoch = self.parent(current)
            field = (*self._fields[current], "init")
            if parent == "base":
                return
            self._known(field, parent, self.runs, also="base")
            if epoch is not None and not 0 < float(epoch) <= self.runs[parent]["epochs"]:
                self._fail(
                    field,
                    f"{self.runs[current]['init']!r}: expected an epoch above 0 and at most "
                    f"{self.runs[parent]['epochs']}, where run {parent!r} ends",
                )
            if parent in seen:
                cycle = seen[seen.index(parent) :]
                last = max(cycle, key=lambda run: self._sources.origin(("runs", run, "init")))
                self._fail(
                    ("runs", last, "init"),
                    f"{self.runs[last]['init']!r}: cyclic init ({' -> '.join([*cycle, parent])}); "
                    "expected a chain to base",
                )
            seen.append(parent)
            current = parent


def _check_files() -> None:
    Study(load_config(sys.argv[1:]), sys.argv[1:])


if __name__ == "__main__":
    run_script(_check_files)

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
from learning_dynamics.consistency import check, complete
from learning_dynamics.errors import run_script
from learning_dynamics.known import METRICS, TRAJECTORY, facts_of
from learning_dynamics.runs import EXTRA, Runs

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
        sources = Sources(config, files)
        self._fail, self._known = sources.fail, sources.known
        sources.check(config, schema, schema, ())
        for kind, prefix in (("datasets", "dataset"), ("models", "model")):
            for name, entry in config[kind].items():
                sources.check_kind(entry, (kind, name), prefix, schema)
        self.config = config
        self.name: str = config["study"]
        self.seeds: list[int] = config["seeds"]
        self.datasets: dict[str, dict] = config["datasets"]
        self.models: dict[str, dict] = config["models"]
        self._add_variants()
        complete(config, sources)
        self._runs = Runs(config, schema, sources)
        # Where a run is written: under ``runs``, or as one of a figure's grid.
        self.fields: dict[str, tuple] = {name: ("runs", name) for name in config["runs"]}
        self.runs = {n: self._runs.resolved(("runs", n), e) for n, e in config["runs"].items()}
        self._grids = {figure: self._runs.grid(figure) for figure in ("algorithms", "forget")}
        self._grids["forks"] = self._runs.forks()
        for figure, runs in self._grids.items():
            self.fields |= dict.fromkeys(runs, ("figures", figure))
            for name, (_, entry) in runs.items():
                self.runs[name] = self._runs.resolved(("figures", figure), entry)
        check(self, sources)

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
        """The epochs of ``run`` at which some run starts, answers are written or the kernel is
        measured, besides its end, in order."""
        return self._saved.get(run, [])

    @cached_property
    def _saved(self) -> dict[str, list[str]]:
        """:meth:`checkpoints`, by run: planning asks for every job's."""
        asked = [self.states(figure).values() for figure in ("winrate", "hallucination")]
        found: dict[str, set[str]] = {}
        asked += [self.stages().values()]
        for name, epoch in [*map(self.parent, self.runs), *itertools.chain(*asked)]:
            if epoch:
                found.setdefault(name, set()).add(epoch)
        return {name: sorted(epochs, key=float) for name, epochs in found.items()}

    def stages(self) -> dict[str, tuple[str, str | None]]:
        """The saved models of figures.kernel in order, by name: as :meth:`parent` gives them."""
        names = self.config["figures"].get("kernel", {}).get("stages", [])
        parts = {name: name.partition("@") for name in names}
        return {name: (run, epoch or None) for name, (run, _, epoch) in parts.items()}

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

    def instances(self, algorithm: str) -> list[tuple[tuple[str, ...], list[str]]]:
        """``(files, runs)`` of each instance of the finetuning rule: a rule's outputs are fixed,
        and its runs leave these files behind besides, of :data:`runs.EXTRA`."""
        found: dict[tuple[str, ...], list[str]] = {}
        for name in self.runs_of(algorithm):
            files = tuple(file for file in EXTRA if self.runs[name][file])
            found.setdefault(files, []).append(name)
        return list(found.items())

    @property
    def algorithms(self) -> dict[str, str]:
        """The algorithms in use and a short, unique name for each, in the order of their first run:
        the function's, with a number where two files hold a function of the same name."""
        used = list(dict.fromkeys(run["algorithm"] for run in self.runs.values()))
        return {reference: self._runs.short[reference] for reference in used}

    def algorithm(self, run: str) -> Algorithm:
        """The algorithm of a run."""
        return self._runs.algorithm(self.fields[run], self.runs[run]["algorithm"])

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

    def forks(self) -> list[dict]:
        """The runs of figures.forks: ``run, algorithm`` (short name), ``from, branch``."""
        return [fact for fact, _ in self._grids["forks"].values()]

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


def _check_files() -> None:
    Study(load_config(sys.argv[1:]), sys.argv[1:])


if __name__ == "__main__":
    run_script(_check_files)

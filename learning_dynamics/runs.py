"""The runs of a study: what each one's algorithm lets it set, with defaults filled in; and the runs
that the grids of figures/algorithms and forget and the branches of figures/forks stand for.
"""

import itertools

from learning_dynamics.algorithms import ALGORITHMS, Algorithm, algorithm
from learning_dynamics.config import Sources
from learning_dynamics.errors import InputError
from learning_dynamics.probe import RESPONSE_TYPES

# What a run may be trained on, by how many responses its loss reads; the first is the default.
ROWS = {1: ["pairs", "probes"], 2: ["pairs", "probes", "self-play", "on-policy"]}
SELF_WRITTEN = ["self-play", "on-policy"]  # rows that the policy itself writes
# Settings that only some runs read; a run that does not is refused them.
SPECIAL = ["rows", "target", "labels", "negative", "valley", "regenerate_every"]
# Settings that make a run leave a table behind of that name.
EXTRA = ["proxies", "tokens", "influence"]
# The branches of figures.forks: what each does otherwise than the whole loss.
BRANCHES = {
    "loss": {},
    "without": {"negative": "none"},
    "valley": {"negative": "valley"},
    "coin": {"labels": "coin"},
    "random": {"direction": "random"},
}


class Runs:
    """Reads and checks run entries.

    Args:
        config: the study's configuration, checked against the schema.
        schema: the schema.
        sources: the files it comes from.
    """

    def __init__(self, config: dict, schema: dict, sources: Sources) -> None:
        self._config, self._sources = config, sources
        self._keys = list(schema["properties"]["runs"]["additionalProperties"]["properties"])
        self._algorithms: dict[str, Algorithm] = {}
        # A name for each algorithm in use: its function's, with a number where a user's function
        # has the name of another one or of the package's.
        self.short: dict[str, str] = {}

    def algorithm(self, at: tuple, reference: str) -> Algorithm:
        """The algorithm that the field at ``at`` names."""
        if reference not in self._algorithms:
            try:
                used = algorithm(reference)
            except InputError as error:
                self._sources.fail(at, str(error))
            for name in set(used.settings) & set(self._keys):
                self._sources.fail(
                    at, f"{reference!r}: its hyper-parameter {name!r} has the name of a setting "
                    "that every run has; expected another name"
                )  # fmt: skip
            self._algorithms[reference] = used
            short, count = used.name, 1
            while used.file and short in {*ALGORITHMS, *self.short.values()}:
                count += 1
                short = f"{used.name}{count}"
            self.short[reference] = short
        return self._algorithms[reference]

    def resolved(self, at: tuple, entry: dict) -> dict:
        """A run's settings, complete: those that its algorithm reads and no others.

        Args:
            at: the field of the entry.
            entry: what the configuration says of the run.
        """
        used = self.algorithm((*at, "algorithm"), entry["algorithm"])
        spec = {**self._config["run_defaults"], **entry}
        special = self._special(at, used, spec, entry)
        self._check_influence(at, spec)
        own = {}
        for name, setting in used.settings.items():
            own[name] = entry.get(name, setting.default)
            self.check_setting((*at, name), used, name, own[name])
        for key in entry:
            if key in SPECIAL and key not in special:
                self._unread((*at, key), entry, used)
            if key not in self._keys and key not in own:
                self.check_setting((*at, key), used, key, entry[key])
        common = {k: v for k, v in spec.items() if k in self._keys and k not in SPECIAL}
        return common | special | own

    def check_setting(self, at: tuple, used: Algorithm, name: str, value: object) -> None:
        """Fail unless ``name`` is a hyper-parameter of the algorithm and ``value`` is in range."""
        if name in used.settings:
            wrong = used.settings[name].check(value)
            if wrong:
                self._sources.fail(at, wrong)
            return
        known = ", ".join(used.settings) or "none"
        if any(name in other.settings for other in ALGORITHMS.values()):
            self._sources.fail(
                at, f"{value!r}: {used.name} does not read it; expected only settings that have an "
                f"effect (its hyper-parameters: {known})"
            )  # fmt: skip
        self._sources.fail(
            at, f"unknown key; expected one of {', '.join(self._keys)}, or a hyper-parameter of "
            f"{used.name}: {known}"
        )  # fmt: skip

    def _special(self, at: tuple, used: Algorithm, spec: dict, entry: dict) -> dict:
        """Those of :data:`SPECIAL` that have an effect in this run."""
        sides = len(used.responses)
        rows = entry.get("rows", used.rows)
        if rows not in ROWS[sides]:
            what = "one response" if sides == 1 else "pairs"
            self._sources.fail(
                (*at, "rows"),
                f"{rows!r}: {used.name} is a loss of {what}; expected one of "
                f"{', '.join(ROWS[sides])}",
            )
        if sides == 1:
            own = self._config["probe"]["own_types"]
            targets = {"pairs": ["chosen", "rejected", "extend", "irrelevant"],
                       "probes": [*RESPONSE_TYPES, *own]}  # fmt: skip
            self._sources.known((*at, "target"), spec["target"], dict.fromkeys(targets[rows]))
            return {"rows": rows, "target": spec["target"]}
        if used.mismatched and rows != "pairs":
            self._sources.fail(
                (*at, "rows"),
                f"{rows!r}: {used.name} compares with other rows' responses, which such rows do "
                "not have; expected pairs",
            )
        if used.logits and spec["negative"] != "all":
            self._sources.fail(
                (*at, "negative"),
                f"{spec['negative']!r}: {used.name} reads logits, whose gradient has no tokens to "
                "leave out; expected all",
            )
        known = {"rows": rows, "labels": spec["labels"], "negative": spec["negative"]}
        if spec["negative"] == "valley":
            known["valley"] = spec["valley"]
        if rows not in SELF_WRITTEN:
            return known
        if "labels" in entry:
            self._unread((*at, "labels"), entry, used)
        return {**known, "labels": "given", "regenerate_every": spec["regenerate_every"]}

    def _check_influence(self, at: tuple, spec: dict) -> None:
        """Fail where a run's windows overlap, or its steps are not the loss's."""
        wanted = spec["influence"]
        if wanted is None:
            return
        if (longest := max([1, *wanted["updates"]])) > wanted["every"]:
            self._sources.fail(
                (*at, "influence"),
                f"windows of {longest} updates every {wanted['every']}: expected windows that do "
                "not overlap",
            )
        if spec["direction"] != "loss":
            self._sources.fail(
                (*at, "direction"),
                f"{spec['direction']!r}: no step of the loss; expected loss, or influence: null",
            )

    def _unread(self, at: tuple, entry: dict, used: Algorithm) -> None:
        rows = f" with rows: {entry['rows']}" if "rows" in entry else ""
        self._sources.fail(
            at,
            f"{entry[at[-1]]!r}: {used.name}{rows} does not read it; expected only settings that "
            "have an effect",
        )

    def grid(self, figure: str) -> dict[str, tuple[dict, dict]]:
        """The runs of figures.algorithms (losses of pairs) or figures.forget (of one response): by
        name, what the figure is told of a run, and the run's entry. Empty without that section."""
        spec = self._config["figures"].get(figure)
        if spec is None:
            return {}
        sides = 2 if figure == "algorithms" else 1
        for target in spec.get("targets", []):
            types = dict.fromkeys([*RESPONSE_TYPES, *self._config["probe"]["own_types"]])
            self._sources.known(("figures", figure, "targets"), target, types)
        compared = spec.get("compare") or list(spec["losses"])
        for name in compared:
            self._sources.known(("figures", figure, "compare"), name, spec["losses"])
        found: dict[str, tuple[dict, dict]] = {}
        for reference, settings in spec["losses"].items():
            at = ("figures", figure, "losses", reference)
            used = self.algorithm(at, reference)
            if len(used.responses) != sides:
                what = "one response" if sides == 1 else "pairs"
                self._sources.fail(at, f"{used.name}: expected a loss of {what}")
            for name, values in settings.items():
                for place, value in enumerate(values):
                    self.check_setting((*at, name, place), used, name, value)
            if reference not in compared:
                continue
            for values in itertools.product(*settings.values()):
                point = dict(zip(settings, values, strict=True))
                for lr, extra in itertools.product(spec["lrs"], _varied(spec, used)):
                    known = {"lr": lr, **extra}
                    name = _name(figure, self.short[reference], point, known)
                    if name in found or name in self._config["runs"]:
                        self._sources.fail(at, f"two runs called {name}; expected one")
                    entry = {"algorithm": reference, **point, **known}
                    entry |= {key: spec[key] for key in ("init", "epochs", "probe_every")}
                    if sides == 1:
                        entry["rows"] = "probes"
                    if used.rows in SELF_WRITTEN:
                        del entry["labels"]  # it would have no effect
                    fact = {"run": name, "algorithm": self.short[reference], "settings": point}
                    found[name] = {**fact, **known}, entry
        return found

    def forks(self) -> dict[str, tuple[dict, dict]]:
        """The runs of figures.forks, as :meth:`grid` gives them: every loss of pairs from every
        saved model, in each of :data:`BRANCHES`."""
        spec = self._config["figures"].get("forks")
        if spec is None:
            return {}
        found: dict[str, tuple[dict, dict]] = {}
        for reference, start in itertools.product(spec["losses"], spec["from"]):
            at = ("figures", "forks", "losses")
            used = self.algorithm(at, reference)
            if len(used.responses) != 2 or used.rows in SELF_WRITTEN:
                self._sources.fail(at, f"{used.name}: expected a loss of given pairs")
            short = self.short[reference]
            for branch, otherwise in BRANCHES.items():
                parts = ["fork", short, start.replace("@", "-at-"), branch]
                name = "-".join(parts)
                if name in self._config["runs"]:
                    self._sources.fail(at, f"two runs called {name}; expected one")
                entry = {"algorithm": reference, "init": start, **otherwise}
                entry |= {key: spec[key] for key in ("epochs", "probe_every", "lr")}
                fact = {"run": name, "algorithm": short, "from": start, "branch": branch}
                found[name] = fact, entry
        return found


def _varied(spec: dict, used: Algorithm) -> list[dict]:
    """What a grid varies beside settings and lr: the target, or the labels."""
    if "targets" in spec:
        return [{"target": target} for target in spec["targets"]]
    coin = spec["coin"] and used.rows not in SELF_WRITTEN
    return [{"labels": labels} for labels in ["given", *["coin"] * coin]]


def _name(figure: str, algorithm: str, point: dict, known: dict) -> str:
    """The name of a grid's run."""
    parts = ["forget" if figure == "forget" else "grid", algorithm]
    parts += [f"{key}{_number(value)}" for key, value in point.items()]
    parts += [known["target"]] if "target" in known else []
    parts += [f"lr{_number(known['lr'])}"]
    return "-".join(parts + ["coin"] * (known.get("labels") == "coin"))


def _number(value: float) -> str:
    return f"{value:.12g}".replace("+", "")

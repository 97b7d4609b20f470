"""A study: the validated config and the graph of runs it describes.

Nothing here imports torch: Snakemake calls it while it plans. Config files alone are checked by
``python -m learning_dynamics.study config.yaml studies/<name>.yaml``.
"""

import copy
import math
import sys
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from learning_dynamics.algorithms import ALGORITHMS, SPECIAL_SETTINGS
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.probe import RESPONSE_TYPES, SAMPLED_TYPES

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "schemas" / "config.schema.yaml"
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


def _filling_validator(shared: dict) -> type:
    """A jsonschema validator class that also writes defaults into the instance, those of the
    ``shared`` definitions included. An integer must be written as one (2.0 is none) and a number
    must be finite."""
    check_properties = Draft202012Validator.VALIDATORS["properties"]

    def fill(validator, properties, instance, schema):  # noqa: ANN001, ANN202
        if isinstance(instance, dict):
            for name, sub in properties.items():
                sub = {**shared.get(sub.get("$ref", "").removeprefix("#/$defs/"), {}), **sub}
                if "default" in sub and name not in instance:
                    default = sub["default"]
                    instance[name] = dict(default) if isinstance(default, dict) else default
        yield from check_properties(validator, properties, instance, schema)

    def integer(checker, value):  # noqa: ANN001, ANN202
        return isinstance(value, int) and not isinstance(value, bool)

    def number(checker, value):  # noqa: ANN001, ANN202
        return integer(checker, value) or (isinstance(value, float) and math.isfinite(value))

    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": integer, "number": number})
    return validators.extend(Draft202012Validator, {"properties": fill}, type_checker=types)


class Study:
    """A study's config, complete and consistent.

    Args:
        config: the merged mapping, as Snakemake or :func:`load_config` gives it.
        files: the config files it was merged from, base first; used to name the one at fault.

    Raises:
        InputError: naming file, field, value and expectation of the first thing that is wrong.
    """

    def __init__(self, config: dict, files: list[str] | None = None) -> None:
        self._files = [str(name) for name in files or ["config"]]
        self._contents = [_read_yaml(n) if Path(n).is_file() else {} for n in self._files]
        if files:
            self._files.append("command line")  # what no file says comes from --config
            self._contents.append(_beyond(config, _merged(self._contents)))
        schema = _read_yaml(SCHEMA)
        self._check(config, schema, schema, ())
        for kind, prefix in (("datasets", "dataset"), ("models", "model")):
            for name, entry in config[kind].items():
                self._check_kind(config, entry, (kind, name), prefix, schema)
        self.config = config
        self.name: str = config["study"]
        self.seeds: list[int] = config["seeds"]
        self.datasets: dict[str, dict] = config["datasets"]
        self.models: dict[str, dict] = config["models"]
        self._add_variants()
        for name, entry in self.datasets.items():
            self._complete(name, entry)
        self._check_probe()
        self.runs = {name: self._resolve(name) for name in config["runs"]}
        self._check_references()

    # -- data sets ---------------------------------------------------------------------------

    def texts(self, dataset: str) -> dict:
        """How a data set's texts are read, cut and continued: what model jobs must know of it."""
        keys = ("confounds", "format", "chat_template", "next_turn", "self_rephrase")
        return {k: v for k, v in self.datasets[dataset].items() if k in keys}

    def published_runs(self) -> dict[str, str]:
        """Result folders of the reference implementation below the configured folder, by name."""
        folder = self.config["published"]
        if folder is None:
            return {}
        found = sorted(Path(folder).glob("*/prob_train_metrics.json"))
        if not found:
            self._fail(
                ("published",),
                f"{folder!r}: holds no run; expected folders with a prob_train_metrics.json",
            )
        return {path.parent.name: str(path.parent) for path in found}

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

    def checkpoints(self, run: str) -> list[str]:
        """The epochs of ``run`` at which some run starts, besides its end, in order."""
        epochs = {self.parent(r)[1] for r in self.runs if self.parent(r)[0] == run}
        return sorted(epochs - {None}, key=float)

    def runs_of(self, algorithm: str) -> list[str]:
        """The runs that use ``algorithm``."""
        return [name for name, run in self.runs.items() if run["algorithm"] == algorithm]

    def runs_by_kept_epochs(self, algorithm: str) -> dict[tuple[str, ...], list[str]]:
        """The runs of ``algorithm``, grouped by the epochs at which other runs start from them."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in self.runs_of(algorithm):
            groups.setdefault(tuple(self.checkpoints(name)), []).append(name)
        return groups

    @property
    def algorithms(self) -> list[str]:
        """The algorithms in use, in the order of their first run."""
        return list(dict.fromkeys(run["algorithm"] for run in self.runs.values()))

    def home(self, model: str, seed: int | str) -> str:
        """Folder of a base model below ``models/``: models of the hub have no seed."""
        return f"{model}/seed{seed}" if self.models[model]["source"] == "pretrain" else model

    def model_of_home(self, home: str) -> tuple[str, int]:
        """The model and the seed (0 for models of the hub) of a folder given by :meth:`home`."""
        model, _, seed = home.partition("/seed")
        return model, int(seed or 0)

    # -- validation --------------------------------------------------------------------------

    def _resolve(self, name: str) -> dict:
        spec = {**self.config["run_defaults"], **self.config["runs"][name]}
        if name == "base":
            self._fail(("runs", name), "the name of the base model; expected another name")
        if spec["algorithm"] not in ALGORITHMS:
            self._fail(
                ("runs", name, "algorithm"),
                f"{spec['algorithm']!r}: unknown; expected one of {', '.join(ALGORITHMS)}",
            )
        unread = SPECIAL_SETTINGS - set(ALGORITHMS[spec["algorithm"]].settings)
        for key in sorted(unread & set(self.config["runs"][name])):
            self._fail(
                ("runs", name, key),
                f"{spec[key]!r}: {spec['algorithm']} does not read it; expected only settings that "
                "have an effect",
            )
        if "target" in spec:
            sources = {"pairs": ["chosen", "rejected", "extend"],
                       "probes": [*RESPONSE_TYPES, *self.config["probe"]["own_types"]]}  # fmt: skip
            at = ("runs", name, "target")
            self._known(at, spec["target"], dict.fromkeys(sources[spec["rows"]]))
        return {key: value for key, value in spec.items() if key not in unread}

    def _check_references(self) -> None:
        known = {"datasets": self.datasets, "models": self.models, "runs": self.runs}
        for kind, names in self.config["active"].items():
            for name in names:
                self._known(("active", kind), name, known[kind])
        for name, model in self.models.items():
            if model["source"] == "pretrain":
                self._known(("models", name, "corpus"), model["corpus"], self.datasets)
            if (model["max_prompt_length"] or 0) >= model["max_length"]:
                self._fail(
                    ("models", name, "max_prompt_length"),
                    f"{model['max_prompt_length']}: leaves no room for a response; expected less "
                    f"than max_length = {model['max_length']}",
                )
        for name in self.runs:
            self._check_ancestry(name)
        for figure, spec in self.config["figures"].items():
            self._known(("figures", figure, "dataset"), spec["dataset"], self.datasets)
            self._known(("figures", figure, "model"), spec["model"], self.models)
            for field in ("runs", "trained_on"):
                runs = spec.get(field, [])
                for run in runs.values() if isinstance(runs, dict) else runs:
                    self._known(("figures", figure, field), run, self.runs)

    def _check_ancestry(self, name: str) -> None:
        seen, current = [name], name
        while True:
            parent, epoch = self.parent(current)
            field = ("runs", current, "init")
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
                last = max(cycle, key=lambda run: self._origin(("runs", run, "init")))
                self._fail(
                    ("runs", last, "init"),
                    f"{self.runs[last]['init']!r}: cyclic init ({' -> '.join([*cycle, parent])}); "
                    "expected a chain to base",
                )
            seen.append(parent)
            current = parent

    def _known(self, field: tuple, name: str, known: dict, also: str = "") -> None:
        if name not in known:
            options = ", ".join([also] * bool(also) + list(known))
            self._fail(field, f"{name!r}: not defined; expected one of {options}")

    def _check_kind(self, config: dict, entry: object, at: tuple, prefix: str, root: dict) -> None:
        kinds = [n.removeprefix(prefix + "-") for n in root["$defs"] if n.startswith(prefix + "-")]
        source = entry.get("source") if isinstance(entry, dict) else entry
        if source not in kinds:
            self._fail((*at, "source"), f"{source!r}: expected one of {', '.join(kinds)}")
        self._check(entry, root["$defs"][f"{prefix}-{source}"], root, at)

    def _check(self, instance: object, schema: dict, root: dict, at: tuple) -> None:
        validator = _filling_validator(root["$defs"])({**schema, "$defs": root["$defs"]})
        error = best_match(validator.iter_errors(instance))
        if error is not None:
            path = (*at, *error.absolute_path)
            if error.validator == "additionalProperties":
                path = (*path, _unknown_key(error))
            self._fail(path, _explain(error))

    def _origin(self, path: tuple) -> int:
        """Number of the last file that sets the field at ``path``, or the closest one above it."""
        for length in range(len(path), 0, -1):
            found = [n for n, file in enumerate(self._contents) if _sets(file, path[:length])]
            if found:
                return found[-1]
        return 0

    def _fail(self, path: tuple, message: str) -> None:
        origin = self._files[self._origin(path)]
        raise InputError(f"{origin}: {'.'.join(map(str, path)) or 'top level'}: {message}")


def load_config(files: list[str | Path]) -> dict:
    """Merge config files as Snakemake does: mappings deeply, everything else replaced."""
    return _merged([_read_yaml(name) for name in files])


def _merged(contents: list[dict]) -> dict:
    merged: dict = {}
    for content in contents:
        for key, value in content.items():
            both = isinstance(merged.get(key), dict) and isinstance(value, dict)
            merged[key] = _merged([merged[key], value]) if both else value
    return merged


def _sets(node: object, path: tuple) -> bool:
    for key in path:
        if isinstance(node, list):  # lists are replaced as a whole
            return True
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _beyond(config: dict, known: dict) -> dict:
    """The part of ``config`` that differs from ``known``."""
    return {
        key: _beyond(value, known[key])
        if isinstance(value, dict) and isinstance(known.get(key), dict)
        else value
        for key, value in config.items()
        # the text is compared too, because NaN differs from itself
        if key not in known or (value != known[key] and str(value) != str(known[key]))
    }


def _read_yaml(path: str | Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML config") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: top level is {content!r}; expected a mapping")
    return content


def _unknown_key(error: ValidationError) -> str:
    return next(key for key in error.instance if key not in error.schema.get("properties", {}))


def _explain(error: ValidationError) -> str:
    value = error.instance
    if error.validator == "additionalProperties":
        return f"unknown key; expected one of {', '.join(error.schema.get('properties', {}))}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in value)
        return f"key {missing!r} is missing; expected {', '.join(error.validator_value)}"
    if error.validator == "type":
        hint = ""
        if isinstance(value, str) and "number" in error.validator_value:
            hint = " (YAML reads 5e-7 as text: write 5.0e-7)"
        wanted = error.validator_value
        name = wanted if isinstance(wanted, str) else " or ".join(wanted)
        return f"{value!r}: expected type {name}{hint}"
    if error.validator == "enum":
        return f"{value!r}: expected one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "pattern":
        return f"{value!r}: expected text that matches {error.validator_value}"
    limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most",
              "exclusiveMaximum": "less than", "minItems": "a list of at least"}  # fmt: skip
    if error.validator in limits:
        return f"{value!r}: expected {limits[error.validator]} {error.validator_value}"
    return error.message


def _check_files() -> None:
    Study(load_config(sys.argv[1:]), sys.argv[1:])


if __name__ == "__main__":
    run_script(_check_files)

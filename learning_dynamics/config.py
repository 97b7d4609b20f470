"""Config files: reading, merging and checking them against the schema, so that what is wrong is one
line that names file, field, value and what was expected.
"""

import math
import re
from pathlib import Path
from typing import NoReturn

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from learning_dynamics.errors import InputError

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "config.schema.yaml"
# Where people paste a key by mistake: what stands there is never told.
UNTOLD = {
    "key_variable": "the name of an environment variable, in capitals",
    "base_url": "http:// or https://, without user and password",
}


class Sources:
    """The files that a config was merged from, to name the one at fault.

    Args:
        config: the merged mapping, as Snakemake or :func:`load_config` gives it.
        files: the config files, base first; None where they are not known.
    """

    def __init__(self, config: dict, files: list[str] | None) -> None:
        self._files = [str(name) for name in files or ["config"]]
        self._contents = [read_yaml(n) if Path(n).is_file() else {} for n in self._files]
        if files:
            self._files.append("command line")  # what no file says comes from --config
            self._contents.append(_beyond(config, _merged(self._contents)))

    def known(self, field: tuple, name: str, known: dict, also: str = "") -> None:
        """Fail unless ``name`` is one of ``known`` (or ``also``)."""
        if name not in known:
            options = ", ".join([also] * bool(also) + list(known))
            self.fail(field, f"{name!r}: not defined; expected one of {options}")

    def check_kind(self, entry: object, at: tuple, prefix: str, root: dict) -> None:
        """Check an entry against the definition ``<prefix>-<its source>``; fill in defaults."""
        kinds = [n.removeprefix(prefix + "-") for n in root["$defs"] if n.startswith(prefix + "-")]
        source = entry.get("source") if isinstance(entry, dict) else entry
        if source not in kinds:
            self.fail((*at, "source"), f"{source!r}: expected one of {', '.join(kinds)}")
        self.check(entry, root["$defs"][f"{prefix}-{source}"], root, at)

    def check(self, instance: object, schema: dict, root: dict, at: tuple) -> None:
        """Check an instance against a schema with the definitions of ``root``; fill in defaults."""
        validator = _filling_validator(root["$defs"])({**schema, "$defs": root["$defs"]})
        error = best_match(validator.iter_errors(instance))
        if error is not None:
            path = (*at, *error.absolute_path)
            if path and path[-1] in UNTOLD:
                self.fail(path, f"expected {UNTOLD[path[-1]]} (what is there is not shown)")
            if error.validator == "additionalProperties":
                path = (*path, _unknown_key(error))
            self.fail(path, _explain(error))

    def origin(self, path: tuple) -> int:
        """Number of the last file that sets the field at ``path``, or the closest one above it."""
        for length in range(len(path), 0, -1):
            found = [n for n, file in enumerate(self._contents) if _sets(file, path[:length])]
            if found:
                return found[-1]
        return 0

    def fail(self, path: tuple, message: str) -> NoReturn:
        """Raise InputError: the field at ``path``, the file that sets it, and the message."""
        origin = self._files[self.origin(path)]
        raise InputError(f"{origin}: {'.'.join(map(str, path)) or 'top level'}: {message}")


def load_config(files: list[str | Path]) -> dict:
    """Merge config files as Snakemake does: mappings deeply, everything else replaced."""
    return _merged([read_yaml(name) for name in files])


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


UNFIT_TEXT = re.compile("[\0\ud800-\udfff]")  # no text; a path that holds it raises
LARGEST, DEEPEST = 100_000, 50
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C is ten times as fast


def read_yaml(path: str | Path) -> dict:
    """A YAML mapping; InputError when the file is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_depth(path, text)
        content = yaml.load(text, Loader=LOADER)
        _check_tree(content)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML config") from None
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; expected UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # of a value's own tag
        raise InputError(f"{path}: a value cannot be read ({error}); expected a config") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: top level is {content!r}; expected a mapping")
    return content


def _check_depth(path: str | Path, text: str) -> None:
    """Fail for what is nested so deeply that the parser, in C, would overflow its stack."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"{path}: nested more than {DEEPEST} deep; expected a config")


def _check_tree(content: object) -> None:
    """Fail for what no config needs: text that cannot be written or that no path can hold, and
    aliases of aliases that stand for more than :data:`LARGEST` values."""
    queue, seen = [content], 0
    while queue:
        node = queue.pop()
        if isinstance(node, str) and (found := UNFIT_TEXT.search(node)):
            raise ValueError(f"character {found[0]!r} in {node[:40]!r}")
        inner = [*node, *node.values()] if isinstance(node, dict) else node
        if isinstance(node, dict | list | set | tuple):
            seen += len(inner)
            if seen > LARGEST:
                raise ValueError(f"more than {LARGEST} values")
            queue += inner


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
        if isinstance(value, int) and abs(value) >= 2**63:
            hint = " of 64 bits"
        wanted = error.validator_value
        name = wanted if isinstance(wanted, str) else " or ".join(wanted)
        return f"{value!r}: expected type {name}{hint}"
    if error.validator == "enum":
        return f"{value!r}: expected one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "pattern":
        return f"{value!r}: expected text that matches {error.validator_value}"
    limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most",
              "exclusiveMaximum": "less than", "minItems": "a list of at least",
              "maxLength": "a text of at most", "minLength": "a text of at least"}  # fmt: skip
    if error.validator in limits:
        return f"{value!r}: expected {limits[error.validator]} {error.validator_value}"
    return error.message


def _filling_validator(shared: dict) -> type:
    """A jsonschema validator class that also writes defaults into the instance, those of the
    ``shared`` definitions included. An integer must be written as one (2.0 is none), a number
    must be finite, and both fit 64 bits."""
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
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63

    def number(checker, value):  # noqa: ANN001, ANN202
        return integer(checker, value) or (isinstance(value, float) and math.isfinite(value))

    def pattern(validator, wanted, instance, schema):  # noqa: ANN001, ANN202
        # In Python "$" also matches before a last newline.
        if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", wanted), instance):
            yield ValidationError(f"{instance!r} does not match {wanted!r}")

    types = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": integer, "number": number})
    checks = {"properties": fill, "pattern": pattern}
    return validators.extend(Draft202012Validator, checks, type_checker=types)

"""Hostile configs: wrong values, keys, types and bytes; and names and places that are tricks."""

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from learning_dynamics.config import load_config
from tests.reliability.formats import Case, Files, parses
from tests.reliability.hostile import changed, damaged, names
from tests.reliability.valid import ROOT, ROWS, as_jsonl

BASE = str(ROOT / "config.yaml")
PLANNED = load_config([BASE, ROOT / "studies" / "ci.yaml"])

HOSTILE_YAML = [
    "study: !!python/object/apply:os.system ['touch pwned']",
    "study: !!python/name:os.system",
    "? !!python/object/new:os.system ['touch pwned']\n: 1",
    "__use_yte__: true\nstudy: ?__import__('os').system('touch pwned')",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 10)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),  # noqa: E501
    "seeds: &s [*s]",
    "[" * 100_000,
    "- " * 100_000,
    "study: " + "{a: " * 60 + "}" * 60,
    "runs: &r {sft: *r}",
    "<<: {study: ci}",
    "study: 2020-01-01",
    "study: !!binary aGk=",
    "seeds: !!set {0, 1}",
    "? [a, b]\n: 1",
    "1: 2",
    "seeds: [0, 0x10, 0b1, 1_000, 012]",
    "study: 'a\\\nb'",
    "%TAG ! tag:a,2020:\n---\nstudy: !x ci",
    "study: ci\n---\nstudy: toy",
    "study: \"\\ud83d\"",
    "data: \"\\ud83d.jsonl\"",
    "study: &x ci\nseeds: *y",
    "judge: {provider: openai, model: m, key_variable: sk-canary-0123456789}",
    "judge: {provider: openai, model: m, api_key: sk-canary-0123456789}",
    "judge: {provider: openai, model: m, base_url: 'https://u:sk-canary-0123456789@h/v1'}",
    "judge: {provider: openai, model: m, base_url: 'sk-canary-0123456789'}",
]  # fmt: skip


def _overlay(tree: dict) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=False).encode()


def _richer() -> dict:
    """The CI study with an entry of every kind."""
    tree = json.loads(json.dumps(PLANNED))
    tree["datasets"]["mine"] = {
        "source": "file", "path": "mine.jsonl", "columns": {"prompt": "q"}, "given": ["irr_hum"],
        "prompt_template": "Q: {prompt}", "chat_template": "hh", "test_share": 0.2,
        "filter": {"max_tokens": 50, "tokenizer": "hub"}, "end_of_turn": "<end>",
        "rephrase": {"provider": "openai", "model": "m", "base_url": "http://h", "refusals": ["x"],
                     "templates": {"semantic": "{response}"}, "cache": "c"},
    }  # fmt: skip
    tree["datasets"]["far"] = {
        "source": "hub", "hub": "a/b", "revision": "0" * 40, "format": "hh",
        "probes": [{"url": "https://a/b.jsonl", "sha256": "0" * 64}, {"path": "mine.jsonl"}],
    }  # fmt: skip
    tree["models"]["hub"] = {"source": "hub", "hub": "a/b", "revision": "0" * 40, "parameters": 1e9}
    tree["probe"]["own_types"] = {"mine": {"ask": "{response}", "of": "chosen"}}
    tree["runs"]["mine"] = {"algorithm": "kto", "init": "sft@0.5", "epochs": 2, "lr": 1e-4,
                            "beta": 0.2, "lora": {"rank": 2, "alpha": 4},
                            "labels": "coin"}  # fmt: skip
    return tree


RICH = _richer()
# Fields that are names or places, and entries that have one.

NAMED = [
    ("study",), ("data",), ("published",), ("datasets", "mine", "path"), ("judge", "function"),
    ("datasets", "mine", "chat_template"), ("datasets", "mine", "prompt_template"),
    ("datasets", "mine", "next_turn"), ("datasets", "mine", "end_of_turn"), ("judge", "model"),
    ("datasets", "far", "hub"), ("datasets", "far", "data_dir"), ("models", "hub", "hub"),
    ("datasets", "far", "probes", 0, "url"), ("datasets", "far", "train_split"),
    ("datasets", "mine", "rephrase", "cache"), ("datasets", "mine", "rephrase", "base_url"),
    ("datasets", "mine", "rephrase", "key_variable"), ("compute", "tracker"),
    ("judge", "system"), ("judge", "template"), ("judge", "cache"),
    ("runs", "mine", "algorithm"), ("runs", "mine", "init"), ("runs", "mine", "target"),
    ("probe", "own_types", "mine", "ask"), ("active", "runs", 0), ("active", "datasets", 0),
    ("figures", "pipelines", "runs", "baseline"), ("datasets", "mine", "given", 0),
    ("datasets", "mine", "columns", "prompt"),
]  # fmt: skip
KEYED = [("datasets", "mine"), ("models", "hub"), ("runs", "mine"), ("probe", "own_types", "mine"),
         ("datasets", "mine", "columns", "prompt"), ("figures", "pipelines", "runs", "baseline"),
         ("figures", "winrate", "comparisons", "extend vs dpo"),
         ("figures", "hallucination", "runs", "sft"), ("claims", "roles", "dpo_long"),
         ("datasets", "mine", "rephrase", "templates", "semantic")]  # fmt: skip
CHECK = ["-m", "learning_dynamics.study", BASE, "overlay.yaml"]
PLAN = ["-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--quiet", "--configfile",
        "overlay.yaml"]  # fmt: skip


def _config_case(content: bytes, files: Files, plan: bool) -> Case:
    parsed = parses("overlay.yaml", content)
    steps = [CHECK] + [PLAN] * (plan and parsed)
    return Case({"overlay.yaml": content, "mine.jsonl": as_jsonl(ROWS)}, steps, parsed)


@st.composite
def configs(draw: Any, files: Files) -> Case:
    """The config of a study with wrong values, keys, types and bytes."""
    how = draw(st.sampled_from(["tree"] * 6 + ["bytes", "yaml"]))
    if how == "yaml":
        content = draw(st.sampled_from(HOSTILE_YAML)).encode()
    else:
        content = _overlay(draw(changed(RICH)))
        content = draw(damaged(content)) if how == "bytes" else content
    return _config_case(content, files, draw(st.integers(0, 19)) == 19)


@st.composite
def named(draw: Any, files: Files) -> Case:
    """A study whose names and places are tricks."""
    tree = json.loads(json.dumps(RICH))
    name = draw(names)
    if draw(st.booleans()):
        *above, last = draw(st.sampled_from(NAMED))
    else:
        *above, last = draw(st.sampled_from(KEYED))
    node = tree
    for key in above:
        node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
    if (*above, last) in KEYED:
        node[name] = node.pop(last)
    elif isinstance(node, list):
        node[last] = name
    else:
        node[last] = name
    return _config_case(_overlay(tree), files, draw(st.integers(0, 4)) == 4)

"""Hostile input: what the fuzz found, each as a plain test; and 200 of its cases.

The fuzz itself: tests/reliability/fuzz.py; docs/reliability.md, section "Hostile input".
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from learning_dynamics import (
    answers,
    errors,
    inputs,
    models,
    probe,
    published,
    rows,
    sources,
    trajectory,
)
from learning_dynamics.chat import chat_renderer
from learning_dynamics.config import load_config, read_yaml
from learning_dynamics.errors import InputError
from learning_dynamics.figures import style
from learning_dynamics.files import read_table, read_texts, write_table
from learning_dynamics.providers import _read
from learning_dynamics.study import Study

ROOT = Path(__file__).resolve().parent.parent
SECRET = "sk-canary-0123456789"
DEEP = "[" * 100_000


def refused(overlay, tmp_path):
    """What the study says of an overlay on the default config that it must refuse."""
    path = tmp_path / "overlay.yaml"
    path.write_text(overlay, encoding="utf-8")
    files = [ROOT / "config.yaml", path]
    with pytest.raises(InputError) as caught:
        Study(load_config(files), files)
    return str(caught.value)


# -- configs ---------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested more than 50 deep"),
        ("- " * 100_000, "nested more than 50 deep"),
        (BOMB, "more than 100000 values"),
        ("seeds: &s [*s]", "more than 100000 values"),
        ("study: 2020-13-45", "cannot be read"),
        ("study: !!int x", "cannot be read"),
        ("study: !!timestamp x", "cannot be read"),
        ('study: "\\ud83d"', "not valid YAML|cannot be read"),
        ('data: "a\\0b"', "cannot be read"),
        ("study: !!python/object/apply:os.system ['touch pwned']", "not valid YAML"),
    ],
    ids=list("0123456789"),
)
def test_yaml_that_does_harm(text, said, tmp_path, monkeypatch):
    """YAML that would exhaust the stack or the memory, or raise in the parser."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_yaml(tmp_path / "a.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


@pytest.mark.parametrize(
    ("overlay", "field"),
    [
        ('study: "ci\\n"', "study"),
        (f"study: {'a' * 101}", "study"),
        ('runs: {"a\\n": {algorithm: sft, init: base, epochs: 1, lr: 1.0}}', "runs"),
        ("data: '{wildcards.seed}.jsonl'", "data"),
        ("data: -x.jsonl", "data"),
        ("datasets: {a: {source: file, url: 'https://h/..'}}", "datasets.a.url"),
        ("datasets: {a: {source: file, url: 'https://h/{x}.jsonl'}}", "datasets.a.url"),
        ("figures: {pipelines: {runs: {'$x$': dpo}}}", "figures.pipelines.runs"),
        ("figures: {winrate: {comparisons: {'$x$': [dpo, dpo-extend]}}}", "winrate.comparisons"),
        ("judge: {cache: ../elsewhere}", "judge.cache"),
        (f"seeds: [{10**30}]", "seeds.0"),
        (f"runs: {{dpo: {{epochs: {10**400}}}}}", "runs.dpo.epochs"),
        ("models: {toy-neox: {vocab_size: 1000000000000}}", "models.toy-neox.vocab_size"),
    ],
)
def test_names_and_numbers(overlay, field, tmp_path):
    """A name that ends in a newline, a place that Snakemake or a command would misread, a label
    that matplotlib would, a number that nothing can count to."""
    assert f"overlay.yaml: {field}" in refused(overlay, tmp_path) or field in refused(
        overlay, tmp_path
    )


def test_two_downloads_of_one_name(tmp_path):
    """They would be one file."""
    probes = "[{url: 'https://a/x.jsonl'}, {url: 'https://b/x.jsonl'}]"
    overlay = (
        f"datasets: {{a: {{source: hub, hub: a/b, revision: '{'0' * 40}', format: hh, "
        f"probes: {probes}}}}}"
    )
    assert "two downloads of this name" in refused(overlay, tmp_path)


@pytest.mark.parametrize(
    "section",
    [
        f"key_variable: {SECRET}",
        f"api_key: {SECRET}",
        f"base_url: 'https://user:{SECRET}@host/v1'",
        f"base_url: {SECRET}",
    ],
)
def test_a_key_in_the_config_is_not_repeated(section, tmp_path):
    """People paste the key where the variable's name belongs."""
    said = refused(f"judge: {{provider: openai, model: m, {section}}}", tmp_path)
    assert "judge." in said and SECRET not in said


@pytest.mark.parametrize("name", ["a\nb", "{x}", "a=b", "-rf", "$(touch pwned)", "a" * 101])
def test_names_of_published_runs(name, tmp_path):
    """A published run's folder becomes a file's name, a wildcard and a label."""
    (tmp_path / "all" / name).mkdir(parents=True)
    (tmp_path / "all" / name / "prob_train_metrics.json").touch()
    study = Study(load_config([ROOT / "config.yaml"]) | {"published": str(tmp_path / "all")})
    with pytest.raises(InputError, match=r"published: .*expected a folder named in letters"):
        study.published_runs()


# -- what is said ----------------------------------------------------------------------------


def test_an_error_is_one_short_line(capsys):
    """Whatever it quotes: control characters, half characters, a megabyte."""
    with pytest.raises(SystemExit):
        errors.fail("a\x1b[2J\ud83d\u2028" + "x" * 10**6 + " expected less")
    said = capsys.readouterr().err
    assert said.startswith("error: a\\x1b[2J\\ud83d") and said.endswith("expected less\n")
    assert said.count("\n") == 1 and len(said) < 1100


def test_memory(monkeypatch, capsys):
    """An input that does not fit is named as that."""

    def main():
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as stop:
        errors.run_script(main)
    assert stop.value.code == 2 and "error: memory" in capsys.readouterr().err


# -- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"a": ' + "9" * 5000 + "}", '{"a": ' + DEEP], ids=["long", "deep"]
)
def test_json_lines(text, tmp_path):
    """A number of 5,000 digits, and 100,000 brackets."""
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="line 1: not JSON"):
        sources.read_rows(tmp_path / "a.jsonl")
    (tmp_path / "prob_train_metrics.json").write_text(DEEP, encoding="utf-8")
    with pytest.raises(InputError, match="line 1: not JSON"):
        published.read_metrics(tmp_path / "prob_train_metrics.json")


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ messages[0].content.encode('x') }}", "{{ 'a' * 10**12 }}",
     "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ cycler.__init__.__globals__ }}"],
)  # fmt: skip
def test_chat_templates(template, tmp_path):
    """A template is a program: whatever it raises is told in one line, and it reaches nothing."""
    (tmp_path / "t.jinja").write_text(template, encoding="utf-8")
    render = chat_renderer(str(tmp_path / "t.jinja"))
    with pytest.raises(InputError, match=r"row 1: chat_template"):
        render("row 1", {"prompt": "a", "chosen": "b", "rejected": "c"})


@pytest.mark.parametrize("content", ["[]", DEEP, '{"chat_template": 1, "bos_token": []}'])
def test_template_folders(content, tmp_path):
    """A tokenizer_config.json that is none."""
    (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        chat_renderer(str(tmp_path))


def test_tables_of_other_types(tmp_path):
    """A column of the right name that holds no text."""
    write_table(tmp_path / "a.parquet", pd.DataFrame({"prompt": ["a", None], "chosen": [1, 2]}))
    for name in ("prompt", "chosen"):
        with pytest.raises(InputError, match=f"column '{name}' holds .*; expected text"):
            read_texts(tmp_path / "a.parquet", [name])


def test_flipped_bits_in_tables(tmp_path):
    """A bit that flips in a table of ours is found, wherever it is."""
    path = tmp_path / "a.parquet"
    table = pd.DataFrame({"logp": np.random.default_rng(0).normal(size=200), "split": "train"})
    write_table(path, table)
    whole = path.read_bytes()
    for place in range(4, len(whole), 97):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        try:
            read = read_table(path, ["logp", "split"])
        except InputError:
            continue
        pd.testing.assert_frame_equal(read, table)


def test_columns_called_as_ours(tmp_path):
    """A probing file may have columns of any name, but not thousands of them."""
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "response": "d", "made_by": "e"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    args = argparse.Namespace(file=str(path))
    probes, _ = inputs.probe_set(args)
    assert list(probes["response_type"]) == ["response", "made_by", "chosen", "rejected"]
    path.write_text(json.dumps(row | {f"a{i}": "x" for i in range(300)}), encoding="utf-8")
    with pytest.raises(InputError, match="304 columns of responses; expected at most 200"):
        inputs.probe_set(args)


def test_nothing_to_train_on(toy_pairs):
    """Pairs without training rows, and a probe set without rows."""
    with pytest.raises(InputError, match="no row of split train"):
        rows.training_pairs(toy_pairs.assign(split="x"))
    with pytest.raises(InputError, match="probe set: no rows"):
        trajectory.probe_trees(pd.DataFrame(columns=probe.PROBE_COLUMNS), None)


@pytest.mark.parametrize("tokens", ["1e999", "10" * 30, "-1", '"x"', DEEP])
def test_answers_of_endpoints(tokens):
    """Token counts that are no numbers of tokens."""
    usage = f'"usage": {{"prompt_tokens": {tokens}}}'
    body = f'{{"choices": [{{"message": {{"content": "a"}}}}], {usage}}}'
    assert _read(body.encode()) == answers.Failure("malformed answer", again=True)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '["\\ud800", 1, 1]',
        '{"text": "\\ud800", "prompt_tokens": 1, "completion_tokens": 1}',
        '{"text": "a", "prompt_tokens": -1, "completion_tokens": 1}',
    ],
)
def test_cached_answers(text, tmp_path):
    """A cached answer that is none is asked for again."""
    cache = answers.Cache(tmp_path, {})
    row = answers.Asked("train", "e", "irr_hum", "", 1, "r", 0)
    cache._path(row).write_text(text, encoding="utf-8")
    assert cache.get(row) is None


def test_dollars_in_figures(tmp_path):
    """Text of the user's opens no formula."""
    import matplotlib.pyplot as plt

    style.apply()
    figure = plt.figure()
    figure.text(0, 0, style.plain(r"$\bad{$ and $x^$"))
    style.save(figure, [str(tmp_path / "a.png")])


# -- models ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny, tmp_path):
    """The tiny model in a folder."""
    models.save(*tiny, tmp_path / "model")
    return tmp_path / "model"


def change(folder, name, **changes):
    """Change a JSON file of a model's folder."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


@pytest.mark.parametrize("kind", ["own", "gpt_neox"])
def test_code_in_a_model_folder(kind, folder, monkeypatch):
    """It is never run, and nobody is asked whether it may be."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "own.py").write_text("open('pwned', 'w').close()\nclass C: pass\n", encoding="utf-8")
    code = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C", "AutoTokenizer": ["own.C"] * 2}
    change(folder, "config.json", auto_map=code, model_type=kind)
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.C", "own.C"]})
    if kind == "own":
        with pytest.raises(InputError, match="not a loadable model"):
            models.load(folder)
    else:
        models.load(folder)
    assert not (folder.parent / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("config.json", {"attn_implementation": "a/kernel"}, "attn_implementation"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("config.json", {"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000"),
        ("config.json", {"num_attention_heads": 0}, "not a loadable model"),
        ("config.json", {"hidden_act": "own.C"}, "not a loadable model"),
        ("config.json", {"architectures": 3, "model_type": []}, "not a loadable model"),
        ("tokenizer.json", {"model": 3}, "not a loadable model"),
    ],
)
def test_model_configs(name, changes, said, folder):
    """What transformers would follow, fetch, build for ever or stumble over."""
    change(folder, name, **changes)
    with pytest.raises(InputError, match=said):
        models.load(folder)


def test_adapters_lead_nowhere(folder):
    """transformers would load the model that an adapter's config names, wherever it lies."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": ".."}')
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        models.load(folder)


def test_more_tokens_than_embeddings(folder):
    """A tokenizer of another model."""
    path = folder / "tokenizer.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["model"]["vocab"]["far"] = 10**5
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(InputError, match=r"token 100000, the model \d+ embeddings"):
        models.load(folder)


# -- the command line ------------------------------------------------------------------------

NAMES = ["$(touch pwned)", "$(shell touch pwned)", "'; touch pwned; '", '"; touch pwned; "',
         "`touch pwned`", "x; touch pwned"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["goal", "DATA", "STUDY", "TARGET", "FAULTS"])
def test_make(name, how, tmp_path):
    """make and its shell take a name as it stands; the recipe's programs are echoes here."""
    stub = tmp_path / ".venv/bin/python"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n', encoding="utf-8")
    stub.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv/bin/.installed").touch()
    words = {"goal": [f"figures/{name}.pdf"], "DATA": ["card", f"DATA={name}"],
             "STUDY": ["figures/a.pdf", f"STUDY={name}"], "TARGET": ["plan", f"TARGET={name}"],
             "FAULTS": ["slurm-faults", f"FAULTS={name}"]}[how]  # fmt: skip
    command = ["make", "-f", str(ROOT / "Makefile"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert name in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "pwned").exists()


def test_snakemake(tmp_path):
    """Data files of every name through the real Snakemake: rows come out, nothing is executed."""
    names = ["$(touch pwned).jsonl", "'; touch pwned; '.jsonl", "a b & [c]*?~.jsonl"]
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for name in names:
        lines = [json.dumps(row | {"prompt": f"a{i}"}) for i in range(8)]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    entries = {f"d{i}": {"source": "file", "path": name} for i, name in enumerate(names)}
    (tmp_path / "overlay.yaml").write_text(json.dumps({"datasets": entries}), encoding="utf-8")
    wanted = [f"results/toy/data/{name}/pairs.parquet" for name in entries]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--cores", "1",
         "--configfile", "overlay.yaml", "--", *wanted],
        cwd=tmp_path, env=os.environ | {"PATH": path, "OPENAI_API_KEY": SECRET},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / place).is_file() for place in wanted)
    assert not list(tmp_path.rglob("pwned")) and SECRET not in done.stdout + done.stderr


def test_fuzz():
    """200 cases; `make fuzz` runs 2,000."""
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--cases", "200", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]
    assert "200 cases, seed 1" in done.stdout

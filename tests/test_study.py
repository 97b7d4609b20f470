"""The study: configs that validate, the run graph, and what a script's results depend on."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from learning_dynamics.errors import InputError
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.provenance import code_of
from learning_dynamics.study import SWITCHES, Study, load_config

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "config.yaml"
OVERLAYS = sorted((ROOT / "studies").glob("*.yaml"))


def study_with(tmp_path, overlay):
    """The study of config.yaml under an overlay, given as a mapping."""
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return Study(load_config([BASE, path]), [BASE, path])


@pytest.mark.parametrize(
    "overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "toy"
)
def test_shipped_studies_validate(overlay):
    """config.yaml and each overlay make a study whose figures and active runs are defined."""
    study = Study(load_config([BASE, overlay] if overlay else [BASE]))
    assert study.name == (overlay.stem if overlay else "toy")
    assert set(study.config["active"]["runs"]) <= set(study.runs)
    assert set(study.config["figures"]) == {"squeeze", "dose", "probe", "confounds"}


def test_defaults_are_filled():
    """What a minimal config leaves out comes from the schema, in nested and chosen parts too."""
    config = load_config([BASE])
    for section in ("compute", "run_defaults", "data"):
        del config[section]
    config["datasets"] = {"toyworld": {"source": "toyworld"}, "mine": {"source": "file"}}
    config["models"] = {"toy-neox": {"source": "pretrain", "corpus": "mine"}}
    del config["figures"]["squeeze"]["one_step"]
    study = Study(config)
    assert study.config["compute"] == {"device": "cpu", "precision": "fp32", "threads": 1}
    assert study.datasets["toyworld"]["train_rows"] == 320
    assert study.datasets["toyworld"]["rephrase"]["provider"] == "toyworld"
    mine = study.datasets["mine"]
    assert [mine[key] for key in ("path", "url", "sha256", "chat_template", "train_rows")] == (
        [None] * 5
    )
    assert mine["confounds"] == dict.fromkeys(SWITCHES, "corrected")
    assert mine["given"] == ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic",
                             "reject_gptformat", "irr_hum"]  # fmt: skip
    assert mine["rephrase"]["provider"] == "none"
    assert mine["filter"] == {"max_tokens": None, "tokenizer": None}
    assert study.models["toy-neox"]["max_prompt_length"] == 256
    assert study.config["figures"]["squeeze"]["one_step"] == {"batches": 20, "batch_size": 4}
    assert study.runs["dpo"]["warmup"] == 150
    assert study.runs["sft"]["probe_every"] == 20  # its own, not the default


def test_defaults_are_not_shared():
    """Two studies in one process do not see each other's changes."""
    config = load_config([BASE])
    del config["compute"]
    first, second = Study(copy.deepcopy(config)), Study(copy.deepcopy(config))
    first.config["compute"]["threads"] = 9
    assert second.config["compute"]["threads"] == 1


def test_local_data_file(tmp_path):
    """`data` is the file of the data sets that name none."""
    datasets = {
        "mine": {"source": "file"},
        "other": {"source": "file", "path": "b.jsonl"},
        "far": {"source": "file", "url": "https://a/c.jsonl"},
    }
    study = study_with(tmp_path, {"data": "a.jsonl", "datasets": datasets})
    paths = {name: study.datasets[name]["path"] for name in datasets}
    assert paths == {"mine": "a.jsonl", "other": "b.jsonl", "far": None}


def test_switches_have_data_sets_of_their_own(tmp_path):
    """figures.confounds: one data set per configured switch, and per leading space, which differs
    in that switch alone and shares nothing with the others."""
    for chosen in (list(SWITCHES), ["truncation", "row_sampling"]):
        toy = study_with(tmp_path, {"figures": {"confounds": {"switches": chosen}}})
        assert toy.config["figures"]["confounds"]["switches"] == chosen
        tried = {"leading_space", *chosen}
        assert set(toy.datasets) == {"toyworld", *(f"toyworld+{switch}" for switch in tried)}
        base = toy.datasets["toyworld"]
        for switch in tried:
            entry = toy.datasets[f"toyworld+{switch}"]
            assert entry == {**base, "confounds": {**base["confounds"], switch: "as_published"}}
            assert entry["confounds"] is not base["confounds"]


def test_a_switch_that_is_as_published_cannot_be_tried(tmp_path):
    """It is no variant of its own and stays as it is in the others; leading space must not be."""
    overlay = {"datasets": {"toyworld": {"confounds": {"truncation": "as_published"}}}}
    study = study_with(tmp_path, overlay)
    assert "truncation" not in study.config["figures"]["confounds"]["switches"]
    assert "toyworld+truncation" not in study.datasets
    assert study.datasets["toyworld+row_sampling"]["confounds"]["truncation"] == "as_published"
    overlay = {"datasets": {"toyworld": {"confounds": {"leading_space": "as_published"}}}}
    with pytest.raises(InputError, match=r"figures\.confounds\.dataset: 'toyworld': its lead"):
        study_with(tmp_path, overlay)


def test_a_given_initial_is_used_as_published(tmp_path):
    """The types that a model writes are taken from the file only with initial_origin as published,
    each once."""
    given = ["chosen_initial", "irr_hum"]
    published = {"initial_origin": "as_published"}
    datasets = {
        "fresh": {"source": "file", "given": ["irr_hum"]},
        "released": {"source": "file", "given": given, "confounds": published},
        "toyworld": {"confounds": published},
    }
    study = study_with(tmp_path, {"datasets": datasets, "data": "a.jsonl"})
    assert study.datasets["fresh"]["given"] == ["irr_hum"]
    assert study.datasets["released"]["given"] == [*given, "chosen_selfr"]
    assert "given" not in study.datasets["toyworld"]


def test_what_model_jobs_know_of_texts(tmp_path):
    """Enough to read, cut and continue them; nothing that changes no text, so that an edit of the
    rest reruns no model job."""
    text = {"confounds", "next_turn", "self_rephrase"}
    datasets = {
        "mine": {"source": "file", "chat_template": "hh"},
        "far": {"source": "hub", "hub": "a/b", "revision": "0" * 40, "format": "hh"},
    }
    study = study_with(tmp_path, {"datasets": datasets, "data": "a.jsonl"})
    assert set(study.texts("toyworld")) == text
    assert set(study.texts("mine")) == text | {"chat_template"}
    assert study.texts("mine")["chat_template"] == "hh"
    assert set(study.texts("far")) == text | {"chat_template", "format"}
    assert study.texts("far")["confounds"] == study.datasets["far"]["confounds"]
    assert json.loads(json.dumps(study.texts("far"))) == study.texts("far")


def test_own_functions(tmp_path):
    """The files of the own types in use, each once; those that are asked for have none."""
    own = {"a": {"function": "x.py:f"}, "b": {"function": "x.py:g"}, "c": {"ask": "say {response}"},
           "unused": {"function": "y.py:f"}}  # fmt: skip
    probe = {"types": [*RESPONSE_TYPES, "a", "b", "c"], "own_types": own}
    study = study_with(tmp_path, {"probe": probe})
    assert study.own_functions() == ["x.py"]
    assert study.config["probe"]["own_types"]["c"]["of"] == "chosen"


def test_published_runs(tmp_path):
    """Folders with the published metrics, by name; none configured, none found."""
    assert Study(load_config([BASE])).published_runs() == {}
    for name in ("b", "a", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if name != "other":
            (tmp_path / "runs" / name / "prob_train_metrics.json").write_text("{}")
    study = study_with(tmp_path, {"published": str(tmp_path / "runs")})
    folder = tmp_path / "runs"
    assert list(study.published_runs().items()) == [(n, str(folder / n)) for n in ("a", "b")]
    empty = study_with(tmp_path, {"published": str(folder / "other")})
    with pytest.raises(InputError, match=r"overlay\.yaml: published: .*other.*: holds no run"):
        empty.published_runs()


def test_run_graph(tmp_path):
    """Parents, kept epochs in numeric order, and the runs grouped by them."""
    runs = {
        "long": {"algorithm": "sft", "init": "base", "epochs": 12, "lr": 0.1},
        "late": {"algorithm": "dpo", "init": "long@10", "epochs": 1, "lr": 0.1},
        "early": {"algorithm": "dpo", "init": "long@2.5", "epochs": 1, "lr": 0.1},
        "end": {"algorithm": "dpo", "init": "long", "epochs": 1, "lr": 0.1},
    }
    study = study_with(tmp_path, {"runs": runs})
    assert study.parent("long") == ("base", None)
    assert study.parent("late") == ("long", "10")
    assert study.parent("end") == ("long", None)
    assert study.checkpoints("long") == ["2.5", "10"]
    assert study.checkpoints("late") == []
    groups = study.runs_by_kept_epochs("sft")
    assert groups[("2.5", "10")] == ["long"]
    plain = [name for name, run in study.runs.items() if run["algorithm"] == "sft"]
    assert groups[()] == [name for name in plain if name != "long"]
    assert {"sft", "sft-extend", "on-chosen"} <= set(groups[()])
    assert "late" in study.runs_of("dpo")
    assert study.algorithms == ["sft", "dpo"]


def test_home_of_a_model():
    """Models trained here have a folder per seed; those of the hub have one."""
    assert Study(load_config([BASE])).home("toy-neox", 2) == "toy-neox/seed2"
    paper = Study(load_config([BASE, ROOT / "studies" / "paper.yaml"]))
    assert paper.home("pythia-410m", 2) == "pythia-410m"


def test_merge_is_that_of_snakemake():
    """Mappings merge deeply and lists are replaced, as Snakemake does with --configfile."""
    from snakemake.utils import update_config

    for overlay in OVERLAYS:
        expected = load_config([BASE])
        update_config(expected, load_config([overlay]))
        assert load_config([BASE, overlay]) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "overlay.yaml: no such file; expected a YAML config"),
        (b"runs: {sft: [", "overlay.yaml: not valid YAML"),
        (b"study: \xff\n", "overlay.yaml: not UTF-8 at byte 7; expected UTF-8"),
        (b"- a\n", "overlay.yaml: top level is ['a']; expected a mapping"),
        (b"", "overlay.yaml: top level is None; expected a mapping"),
    ],
)
def test_unreadable_config(content, expected, tmp_path):
    """A config file that is missing or not YAML is named."""
    if content is not None:
        (tmp_path / "overlay.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config([BASE, tmp_path / "overlay.yaml"])
    assert expected in str(caught.value)


WRONG = {
    "seeds: []": "seeds: []: expected a list of at least 1",
    "seeds: [0, 0]": "seeds: [0, 0] has non-unique elements",
    "seeds: [0, 1.0]": "seeds.1: 1.0: expected type integer",
    "seeds: [true]": "seeds.0: True: expected type integer",
    "runs: {x: {algorithm: sft, init: base, epochs: 1}}": "runs.x: key 'lr' is missing; expected",
    "runs: {sft: null}": "runs.sft: None: expected type object",
    "runs: {sft: {lr: .nan}}": "runs.sft.lr: nan: expected type number",
    "runs: {sft: {epochs: .inf}}": "runs.sft.epochs: inf: expected type number",
    "runs: {sft: {init: sft@}}": "runs.sft.init: 'sft@': expected text that matches",
    "runs: {sft: {init: sft}}": "runs.sft.init: 'sft': cyclic init (sft -> sft)",
    "runs: {dpo: {init: sft@0}}": "runs.dpo.init: 'sft@0': expected an epoch above 0",
    "runs: {sft: {beta: 0.1}}": "runs.sft.beta: 0.1: sft does not read it",
    "runs: {base: {algorithm: sft, init: base, epochs: 1, lr: 1.0}}": "runs.base",
    "runs: {sft: {batch_size: 0}}": "runs.sft.batch_size: 0: expected at least 1",
    "run_defaults: {labels: fair}": "run_defaults.labels: 'fair': expected one of given, coin",
    "probe: {types: [chosen, irr]}": "probe.types: 'irr': not defined; expected one of chosen, cho",
    "probe: {types: [chosen, x/y]}": "probe.types.1: 'x/y': expected text that matches",
    "probe: {own_types: {a: {}}}": "probe.own_types.a: {} should be non-empty",
    "probe: {own_types: {a: {of: chosen}}}": "probe.own_types.a: {'of': 'chosen'}: expected functi",
    "probe: {own_types: {a: {ask: b, function: 'c.py:d'}}}": "probe.own_types.a: {'ask': 'b', 'fun",
    "probe: {own_types: {a: {function: c.py}}}": "probe.own_types.a.function: 'c.py': expected tex",
    "probe: {own_types: {irr_hum: {ask: b}}}": "probe.own_types.irr_hum: a type of the paper; exp",
    "datasets: {a: {source: csv}}": "datasets.a.source: 'csv': expected one of toyworld, file, hub",
    "datasets: {a: 3}": "datasets.a.source: 3: expected one of toyworld",
    "datasets: {toyworld: {rows: 3}}": "datasets.toyworld.rows: unknown key; expected one of",
    "datasets: {a: {source: file, url: 'http://a'}}": "datasets.a.url: 'http://a': expected text",
    "datasets: {a: {source: file, sha256: abc}}": "datasets.a.sha256: 'abc': expected text that",
    "datasets: {a: {source: file, columns: {prompt: 1}}}": "datasets.a.columns.prompt: 1: expected",
    "datasets: {a: {source: file, prompt_template: Q}}": "datasets.a.prompt_template: 'Q': expect",
    "datasets: {a: {source: file, test_share: 1.0}}": "datasets.a.test_share: 1.0: expected less",
    "datasets: {toyworld: {confounds: {truncation: fixed}}}": "datasets.toyworld.confounds.trunca",
    "datasets: {toyworld: {confounds: {spaces: corrected}}}": "datasets.toyworld.confounds.spaces",
    "datasets: {a: {source: file, rephrase: {provider: toyworld}}}": "datasets.a.rephrase.provid",
    "datasets: {a: {source: file, rephrase: {provider: openai}}}": "datasets.a.rephrase.model: no",
    "datasets: {a: {source: file, rephrase: {provider: transformers, model: b}}}": (
        "datasets.a.rephrase.model: 'b': not defined"
    ),
    "datasets: {a: {source: file, filter: {max_tokens: 9, tokenizer: toy-neox}}}": (
        "datasets.a.filter.tokenizer: 'toy-neox': not defined"
    ),
    "runs: {sft: {target: irr_hum}}": "runs.sft.target: 'irr_hum': not defined; expected one of ch",
    "runs: {on-hum: {target: extend}}": "runs.on-hum.target: 'extend': not defined; expected one",
    "models: {toy-neox: {corpus: hh}}": "models.toy-neox.corpus: 'hh': not defined; expected one",
    "models: {toy-neox: {max_prompt_length: 192}}": "models.toy-neox.max_prompt_length: 192: leav",
    "models: {a: {source: hub, hub: gpt2}}": "models.a: key 'revision' is missing",
    "active: {models: [gpt]}": "active.models: 'gpt': not defined; expected one of toy-neox",
    "figures: {dose: {model: gpt}}": "figures.dose.model: 'gpt': not defined; expected one of",
    "figures: {dose: {runs: [a]}}": "figures.dose.runs: 'a': not defined; expected one of sft",
    "figures: {confounds: {dataset: hh}}": "figures.confounds.dataset: 'hh': not defined; expected",
    "figures: {confounds: {trained_on: [hum]}}": "figures.confounds.trained_on: 'hum': not defined",
    "figures: {confounds: {switches: [eos]}}": "figures.confounds.switches.0: 'eos': expected one",
    "figures: {confounds: {runs: {dpo: dpp}}}": "figures.confounds.runs: 'dpp': not defined",
    "figures: {probe: {model: gpt}}": "figures.probe.model: 'gpt': not defined; expected one of",
    "compute: {device: gpu}": "compute.device: 'gpu': expected one of cpu, cuda",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_config(text, tmp_path):
    """File, field, value and expectation; tests/test_wrong_inputs.py drives more of these."""
    path = tmp_path / "overlay.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Study(load_config([BASE, path]), [BASE, path])
    assert str(caught.value).startswith(f"{path}: {WRONG[text]}")


def test_the_file_at_fault_is_named(tmp_path):
    """The last file that sets the wrong value is blamed, whatever comes before or after it."""
    texts = {"a": "seeds: [1]", "b": "runs: {sft: {lrr: 1.0}}", "c": "runs: {sft: {lr: 1.0}}"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = [BASE, *(tmp_path / name for name in texts)]
    with pytest.raises(InputError, match=rf"^{tmp_path}/b: runs\.sft\.lrr: unknown key"):
        Study(load_config(files), files)
    with pytest.raises(InputError, match=rf"^{tmp_path}/b: runs\.sft\.lrr"):
        Study(load_config(files), [BASE, "gone.yaml", *files[1:]])
    config = {**load_config([BASE]), "seeds": 3}
    with pytest.raises(InputError, match=r"^command line: seeds: 3: expected type array"):
        Study(config, [BASE])


def test_code_of_follows_imports():
    """A script depends on what it imports, also indirectly, and on nothing else."""
    found = code_of("workflow_scripts/finetune.py")
    assert "workflow_scripts/finetune.py" in found
    assert "learning_dynamics/algorithms/losses.py" in found
    assert "learning_dynamics/algorithms/__init__.py" in found
    assert "learning_dynamics/scoring.py" in found  # through learning_dynamics/finetune.py
    assert not [name for name in found if "figures" in name or name.endswith("/study.py")]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda p: p.stem
)
def test_code_of_every_script(path):
    """Every script's code exists and holds the script itself; only drawing depends on figures."""
    found = code_of(f"workflow_scripts/{path.name}")
    assert all((ROOT / name).is_file() for name in found)
    assert f"workflow_scripts/{path.name}" in found
    assert any("/figures/" in name for name in found) == path.stem.startswith("draw_")

"""The study: configs that validate, the run graph, and what a script's results depend on."""

import copy
from pathlib import Path

import pytest
import yaml

from learning_dynamics.errors import InputError
from learning_dynamics.provenance import code_of
from learning_dynamics.study import Study, load_config

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
    assert set(study.config["figures"]) == {"squeeze", "dose"}


def test_defaults_are_filled():
    """What a minimal config leaves out comes from the schema, in nested and chosen parts too."""
    config = load_config([BASE])
    for section in ("compute", "run_defaults", "data"):
        del config[section]
    config["datasets"] = {"toyworld": {"source": "toyworld"}, "mine": {"source": "probing-file"}}
    config["models"] = {"toy-neox": {"source": "pretrain", "corpus": "mine"}}
    del config["figures"]["squeeze"]["one_step"]
    study = Study(config)
    assert study.config["compute"] == {"device": "cpu", "precision": "fp32", "threads": 1}
    assert study.datasets["toyworld"]["train_rows"] == 320
    assert study.datasets["mine"]["probes"] == {"path": None, "url": None, "sha256": None}
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
    """`data` is the probing file of the data sets that name none."""
    mine = {"source": "probing-file"}
    other = {"source": "probing-file", "probes": {"path": "b.jsonl"}}
    study = study_with(tmp_path, {"data": "a.jsonl", "datasets": {"mine": mine, "other": other}})
    assert study.datasets["mine"]["probes"]["path"] == "a.jsonl"
    assert study.datasets["other"]["probes"]["path"] == "b.jsonl"


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
    assert groups[()] == ["sft", "sft-extend", "sft-matched", "sft-continued"]
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
    "probe: {types: [chosen, irr]}": "probe.types.1: 'irr': expected one of chosen, chosen_initial",
    "datasets: {a: {source: csv}}": "datasets.a.source: 'csv': expected one of toyworld, probing",
    "datasets: {a: 3}": "datasets.a.source: 3: expected one of toyworld",
    "datasets: {toyworld: {rows: 3}}": "datasets.toyworld.rows: unknown key; expected one of",
    "datasets: {a: {source: probing-file, probes: {url: 'http://a'}}}": "datasets.a.probes.url",
    "models: {toy-neox: {corpus: hh}}": "models.toy-neox.corpus: 'hh': not defined; expected one",
    "models: {toy-neox: {max_prompt_length: 192}}": "models.toy-neox.max_prompt_length: 192: leav",
    "models: {a: {source: hub, hub: gpt2}}": "models.a: key 'revision' is missing",
    "active: {models: [gpt]}": "active.models: 'gpt': not defined; expected one of toy-neox",
    "figures: {dose: {model: gpt}}": "figures.dose.model: 'gpt': not defined; expected one of",
    "figures: {dose: {runs: [a]}}": "figures.dose.runs: 'a': not defined; expected one of sft",
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

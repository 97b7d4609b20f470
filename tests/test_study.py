"""The study: configs that validate, the run graph, and what a script's results depend on."""

import copy
import json
import re
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
    path.write_text(yaml.safe_dump(overlay, sort_keys=False), encoding="utf-8")
    return Study(load_config([BASE, path]), [BASE, path])


@pytest.mark.parametrize(
    "overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "toy"
)
def test_shipped_studies_validate(overlay):
    """config.yaml and each overlay make a study whose figures and active runs are defined."""
    study = Study(load_config([BASE, overlay] if overlay else [BASE]))
    assert study.name == (overlay.stem if overlay else "toy")
    assert set(study.config["active"]["runs"]) <= set(study.runs)
    assert set(study.config["figures"]) >= {"squeeze", "dose", "probe", "confounds"}


def test_defaults_are_filled():
    """What a minimal config leaves out comes from the schema, in nested and chosen parts too."""
    config = load_config([BASE])
    for section in ("compute", "judge", "run_defaults", "data"):
        del config[section]
    config["datasets"] = {"toyworld": {"source": "toyworld"}, "mine": {"source": "file"}}
    config["models"] = {"toy-neox": {"source": "pretrain", "corpus": "mine"}}
    for figure in ("sft_models", "dpo_models"):
        config["figures"][figure]["models"] = ["toy-neox"]
    config["claims"]["evaluate"] = config["claims"]["evaluate"][:1]
    del config["figures"]["squeeze"]["one_step"]
    config["figures"]["entk_proxies"]["kernel"] = None  # its model is none of these
    study = Study(config)
    assert study.config["compute"] == {
        "device": "cpu", "precision": "fp32", "threads": 1, "processes": 1, "sharding": "none",
        "tracker": None,
    }  # fmt: skip
    judge = study.config["judge"]
    assert (judge["provider"], judge["function"], judge["temperature"]) == ("toyworld", None, 0.0)
    assert study.datasets["toyworld"]["train_rows"] == 320
    assert study.datasets["toyworld"]["rephrase"]["provider"] == "toyworld"
    mine = study.datasets["mine"]
    unset = ("path", "url", "sha256", "chat_template", "train_rows", "end_of_turn")
    assert [mine[key] for key in unset] == [None] * 6
    assert mine["confounds"] == dict.fromkeys(SWITCHES, "corrected")
    assert mine["given"] == ["chosen_gptsemantic", "chosen_gptformat", "reject_gptsemantic",
                             "reject_gptformat", "irr_hum"]  # fmt: skip
    assert mine["rephrase"]["provider"] == "none"
    assert mine["filter"] == {"max_tokens": None, "tokenizer": None}
    assert study.models["toy-neox"]["max_prompt_length"] == 256
    assert study.config["figures"]["squeeze"]["one_step"] == {"batches": 20, "batch_size": 4}
    assert study.runs["dpo"] == {
        "algorithm": "dpo", "init": "sft", "epochs": 3, "lr": 1e-4, "batch_size": 4,
        "accumulate": 1, "optimizer": "rmsprop", "warmup": 150, "clip": 10.0, "lora": None,
        "checkpointing": False, "length_buckets": 1, "direction": "loss", "proxies": None,
        "tokens": {"examples": 50}, "probe_every": 25, "influence": {
            "examples": 3, "every": 110, "updates": [5, 25], "factors": [0.0625, 0.25, 4, 16]
        }, "checkpoint_every": 250, "rows": "pairs",
        "labels": "given", "negative": "all", "beta": 0.1,
    }  # fmt: skip
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
    text |= {"end_of_turn"}
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
    """Parents, kept epochs in numeric order, and the runs of an algorithm."""
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
    assert {"sft", "sft-extend", "on-chosen", "long"} <= set(study.runs_of("sft"))
    outputs = dict(study.instances("sft"))
    measured = [n for n in study.runs_of("sft") if study.runs[n]["proxies"]]
    assert outputs["proxies",] == measured and outputs["tokens", "influence"] == ["sft"]
    assert sorted(n for runs in outputs.values() for n in runs) == sorted(study.runs_of("sft"))
    assert "late" in study.runs_of("dpo")
    assert {"sft": "sft", "dpo": "dpo"}.items() <= study.algorithms.items()


RUN = {"init": "sft", "epochs": 1, "lr": 0.1}
MINE = """
def my_loss(chosen, rejected, ref_chosen, *, slope=2.0): return rejected - slope * chosen
"""


ALL = {"negative": "all"}  # of y⁻ everything carries gradient


def test_settings_follow_the_algorithm(tmp_path):
    """A run holds its algorithm's hyper-parameters, defaults filled in; of rows, target and what
    pairs have those that have an effect; rows by default the algorithm's own."""
    overlay = {
        "run_defaults": {"labels": "coin", "target": "rejected", "regenerate_every": 7},
        "runs": {
            "kto": {**RUN, "algorithm": "kto", "undesirable_weight": 2},
            "npo": {**RUN, "algorithm": "npo", "rows": "probes", "target": "irr_hum"},
            "npo-pairs": {**RUN, "algorithm": "npo", "beta": 0.5},
            "spin": {**RUN, "algorithm": "spin"},
            "on-policy-ipo": {**RUN, "algorithm": "ipo", "rows": "on-policy",
                              "regenerate_every": None},
            "spin-on-data": {**RUN, "algorithm": "spin", "rows": "pairs", "labels": "given"},
            "small": {**RUN, "algorithm": "sft", "lora": {"rank": 4, "alpha": 8}},
        },
    }  # fmt: skip
    study = study_with(tmp_path, overlay)
    common = set(study.runs["sft"]) - {"rows", "target"}
    special = {
        name: {k: v for k, v in study.runs[name].items() if k not in common}
        for name in overlay["runs"]
    }
    assert special == {
        "kto": {"rows": "pairs", "labels": "coin", **ALL, "beta": 0.1,
                "desirable_weight": 1.0, "undesirable_weight": 2},
        "npo": {"rows": "probes", "target": "irr_hum", "beta": 0.1},
        "npo-pairs": {"rows": "pairs", "target": "rejected", "beta": 0.5},
        "spin": {"rows": "self-play", "labels": "given", **ALL, "regenerate_every": 7, "beta": 0.1},
        "on-policy-ipo": {"rows": "on-policy", "labels": "given", **ALL, "regenerate_every": None,
                          "beta": 0.1},
        "spin-on-data": {"rows": "pairs", "labels": "given", **ALL, "beta": 0.1},
        "small": {"rows": "pairs", "target": "rejected"},
    }  # fmt: skip
    needs = {name for name in overlay["runs"] if study.needs_reference(name)}
    assert needs == {"kto", "npo-pairs", "spin-on-data"}
    assert study.runs["small"]["lora"] == {
        "rank": 4, "alpha": 8, "targets": "all-linear",
    }  # fmt: skip
    assert study.runs["sft"]["lora"] is None


def test_a_loss_of_the_users(tmp_path, monkeypatch):
    """file.py:function, relative to the working directory; its hyper-parameters are flat in the
    run; names for rules are unique."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py"):
        Path(name).write_text(MINE + MINE.replace("my_loss", "dpo"), encoding="utf-8")
    runs = {
        "one": {**RUN, "algorithm": "a.py:my_loss", "slope": 3},
        "two": {**RUN, "algorithm": "b.py:my_loss"},
        "three": {**RUN, "algorithm": "b.py:dpo"},
        "four": {**RUN, "algorithm": "a.py:my_loss", "lr": 0.2},
    }
    study = study_with(tmp_path, {"runs": runs})
    assert study.runs["one"]["slope"] == 3 and study.runs["two"]["slope"] == 2.0
    assert study.algorithm("one").file == "a.py" and study.algorithm("dpo").file is None
    assert study.needs_reference("one")
    names = {
        "sft": "sft", "dpo": "dpo", "a.py:my_loss": "my_loss", "b.py:my_loss": "my_loss2",
        "b.py:dpo": "dpo2",
    }  # fmt: skip
    assert names.items() <= study.algorithms.items()
    assert len(set(study.algorithms.values())) == len(study.algorithms)
    assert study.runs_of("a.py:my_loss") == ["one", "four"]
    Path("a.py").write_text("def my_loss(chosen, *, lr=1): return chosen", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"one\.algorithm: 'a.py:my_loss': its hyper-parameter 'lr'"
    ):
        study_with(tmp_path, {"runs": runs})
    Path("a.py").unlink()
    with pytest.raises(
        InputError, match=r"overlay\.yaml: runs\.one\.algorithm: 'a.py:my_loss': no su"
    ):
        study_with(tmp_path, {"runs": runs})


GRID = {"dataset": "toyworld", "model": "toy-neox", "init": "sft", "epochs": 2, "probe_every": 5,
        "lrs": [1e-4, 2e-5]}  # fmt: skip


def test_the_grid_of_a_figure(tmp_path, monkeypatch):
    """Every loss × every combination of its settings × every lr, again with coin-flip labels where
    labels have an effect: runs like any other, and what the figure is told of them."""
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text(MINE, encoding="utf-8")
    losses = {"dpo": {"beta": [0.1, 1e6]}, "simpo": {"beta": [2], "gamma": [-0.5, 1]},
              "spin": {"beta": [1]},
              "a.py:my_loss": {}}  # fmt: skip
    compare = list(losses)
    figures = {"algorithms": {**GRID, "losses": losses, "compare": compare, "coin": True}}
    study = study_with(tmp_path, {"figures": figures, "run_defaults": {"labels": "coin"}})
    grid = study.grid()
    names = [fact["run"] for fact in grid]
    assert len(set(names)) == len(names) == 2 * (2 * 2 + 2 * 2 + 1 + 2)
    assert grid[1] == {"run": "grid-dpo-beta0.1-lr0.0001-coin", "algorithm": "dpo", "lr": 1e-4,
                       "settings": {"beta": 0.1}, "labels": "coin"}  # fmt: skip
    for name in ("grid-dpo-beta1000000-lr2e-05", "grid-simpo-beta2-gamma-0.5-lr0.0001",
                 "grid-spin-beta1-lr2e-05", "grid-my_loss-lr2e-05-coin"):  # fmt: skip
        assert name in names
    for fact in grid:
        run = study.runs[fact["run"]]
        assert fact["settings"].items() <= run.items()
        assert (run["lr"], run["labels"]) == (fact["lr"], fact["labels"])
        assert (run["init"], run["epochs"], run["probe_every"]) == ("sft", 2, 5)
        assert study.algorithms[run["algorithm"]] == fact["algorithm"]
    assert study.runs["grid-spin-beta1-lr2e-05"]["rows"] == "self-play"
    assert len(grid) < len(Study(load_config([BASE])).grid())


def test_the_runs_of_figures_forget(tmp_path):
    """Losses of one response on typed responses of the probe set."""
    losses = {"gradient_ascent": {}, "npo": {"beta": [0.1]}}
    study = study_with(tmp_path, {"figures": {"forget": {**GRID, "losses": losses}}})
    runs = study.forget_runs()
    assert [fact["run"] for fact in runs if fact["lr"] == 2e-5] == [
        "forget-gradient_ascent-chosen-lr2e-05", "forget-gradient_ascent-random_permute-lr2e-05",
        "forget-npo-beta0.1-chosen-lr2e-05", "forget-npo-beta0.1-random_permute-lr2e-05",
    ]  # fmt: skip
    last = {"algorithm": "npo", "lr": 2e-5, "settings": {"beta": 0.1}, "target": "random_permute"}
    assert runs[-1] == {"run": "forget-npo-beta0.1-random_permute-lr2e-05", **last}
    for fact in runs:
        run = study.runs[fact["run"]]
        assert (run["rows"], run["target"]) == ("probes", fact["target"])
        assert not study.needs_reference(fact["run"])


def test_the_examples_of_the_docs(tmp_path, monkeypatch):
    """Every YAML block of README.md and docs/algorithms.md is a valid overlay, beside README's file
    of Python."""
    monkeypatch.chdir(tmp_path)
    docs = ("README.md", "docs/algorithms.md")
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in docs)
    python = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Path("my_losses.py").write_text(python[0], encoding="utf-8")
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 3
    studies = [study_with(tmp_path, block) for block in blocks]
    assert studies[1].runs["my-simpo"]["gamma"] == 1.0
    assert studies[0].algorithms["my_losses.py:mean_dpo"] == "mean_dpo"
    names = {fact["run"] for fact in studies[2].grid() + studies[2].forget_runs()}
    for name in re.findall(r"`((?:grid|forget)-[^`]*)`", text):
        assert name in names


WRONG_GRID = {
    "{init: gone}": "init: 'gone': not defined; expected one of base, sft",
    "{init: sft@9}": "init: 'sft@9': expected an epoch above 0 and at most 2",
    "{lrs: [0]}": "lrs.0: 0: expected more than 0",
    "{losses: {ppo: {}}}": "losses.ppo: 'ppo': unknown; expected one of sft",
    "{losses: {sft: {}}}": "losses.sft: sft: expected a loss of pairs",
    "{losses: {dpo: {beta: 0.1}}}": "losses.dpo.beta: 0.1: expected type array",
    "{losses: {dpo: {beta: [0.1, 0]}}}": "losses.dpo.beta.1: 0: expected a number more than 0",
    "{losses: {dpo: {beta: [a]}}}": "losses.dpo.beta.0: 'a': expected a number more than 0",
    "{losses: {dpo: {gamma: [1]}}}": "losses.dpo.gamma.0: 1: dpo does not read it",
    "{losses: {dpo: {beta: [1, 1.0000000000001]}}}": "losses.dpo: two runs called grid-dpo-beta1-",
    "{dataset: hh}": "dataset: 'hh': not defined; expected one of toyworld",
    "{runs: [sft]}": "runs: unknown key; expected one of dataset, model, seeds",
}


@pytest.mark.parametrize("text", WRONG_GRID)
def test_wrong_grids(text, tmp_path):
    """File, field, value and expectation, of what was written and not of what it expands into."""
    section = {**GRID, "losses": {"dpo": {}}, **yaml.safe_load(text)}
    with pytest.raises(InputError) as caught:
        study_with(tmp_path, {"figures": {"algorithms": section}})
    at = f"{tmp_path / 'overlay.yaml'}: figures.algorithms."
    assert str(caught.value).startswith(at + WRONG_GRID[text])


def test_a_judge_for_what_is_sampled(tmp_path):
    """The toy world judges no other data set; a function needs a place, and only it has one."""
    runs = {"online": {**RUN, "algorithm": "online_dpo"}}
    overlay = {
        "runs": runs,
        "datasets": {"mine": {"source": "file", "path": "a.jsonl"}},
        "active": {"datasets": ["toyworld", "mine"], "runs": ["sft", "online"]},
    }
    judge = {"provider": "function", "function": "judge.py:better"}
    found = study_with(tmp_path, {**overlay, "judge": judge}).config["judge"]
    assert judge.items() <= found.items()
    with pytest.raises(
        InputError, match=r"judge\.provider: 'toyworld': cannot judge run 'online' on"
    ):
        study_with(tmp_path, overlay)
    with pytest.raises(
        InputError, match=r"overlay\.yaml: judge\.provider: 'function': expected ju"
    ):
        study_with(tmp_path, {"judge": {"provider": "function"}})
    with pytest.raises(InputError, match=r"overlay\.yaml: judge\.function: 'judge.py:better': exp"):
        study_with(tmp_path, {"judge": {"function": "judge.py:better"}})


def test_figures_may_take_fewer_seeds(tmp_path):
    """The first so many; all of them where none is said, or where there are fewer."""
    overlay = {"seeds": [4, 2, 9], "figures": {"dose": {"seeds": 2}, "algorithms": {"seeds": 5}}}
    study = study_with(tmp_path, overlay)
    assert study.seeds_of("dose") == [4, 2]
    assert study.seeds_of("algorithms") == study.seeds_of("squeeze") == [4, 2, 9]


def test_stages_of_the_kernel_are_kept(tmp_path):
    """The saved models of figures.kernel, in order; their epochs are kept by the runs."""
    overlay = {"figures": {"kernel": {"stages": ["base", "sft@0.5", "sft-long@5.5", "dpo"]}}}
    study = study_with(tmp_path, overlay)
    assert list(study.stages().values()) == [
        ("base", None), ("sft", "0.5"), ("sft-long", "5.5"), ("dpo", None)
    ]  # fmt: skip
    assert "0.5" in study.checkpoints("sft") and "5.5" in study.checkpoints("sft-long")


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
    "runs: {sft: {lrr: a}}": "runs.sft.lrr: unknown key; expected one of algorithm, init, epochs",
    "runs: {dpo: {beta: 0}}": "runs.dpo.beta: 0: expected a number more than 0",
    "runs: {dpo: {beta: 1e-1}}": "runs.dpo.beta: '1e-1': expected a number more than 0 (YAML reads",
    "runs: {dpo: {beta: .nan}}": "runs.dpo.beta: nan: expected a number more than 0",
    "runs: {dpo: {beta: null}}": "runs.dpo.beta: None: expected a number more than 0",
    "runs: {dpo: {gamma: 1.0}}": "runs.dpo.gamma: 1.0: dpo does not read it; expected only settin",
    "runs: {dpo: {algorithm: 3}}": "runs.dpo.algorithm: 3: expected type string",
    "runs: {dpo: {algorithm: x.py:f}}": "runs.dpo.algorithm: 'x.py:f': no such file; expected",
    "runs: {dpo: {rows: mine}}": "runs.dpo.rows: 'mine': expected one of pairs, probes",
    "runs: {dpo: {algorithm: kto, rows: probes}}": "runs.dpo.rows: 'probes': kto compares",
    "runs: {on-dpo: {target: chosen}}": "runs.on-dpo.target: 'chosen': dpo with rows: probes does",
    "runs: {on-dpo: {proxies: true}}": "runs.on-dpo.proxies: True: expected type object or null",
    "runs: {on-dpo: {proxies: {examples: 0}}}": "runs.on-dpo.proxies.examples: 0: expected at le",
    "{runs: {twin: {algorithm: sft, init: base, epochs: 1, lr: 0.1, rows: probes}},"
    " figures: {entk_proxies: {runs: [on-chosen, twin]}}}": (
        "figures.entk_proxies.runs: 'twin': trains on chosen as 'on-chosen' does"
    ),
    "figures: {tokens: {runs: {sft: sft-long}}}": (
        "figures.tokens.runs.sft: 'sft-long': keeps no log-probs of tokens; expected a run with"
    ),
    "figures: {influence: {runs: {extend: dpo-matched}}}": (
        "figures.influence.runs.extend: 'dpo-matched': measures no influence; expected a run with"
    ),
    "runs: {sft: {tokens: true}}": "runs.sft.tokens: True: expected type object or null",
    "figures: {kernel: {stages: [base, sft@3]}}": "figures.kernel.stages.1: 'sft@3': expected an",
    "figures: {kernel: {stages: [base, dpp]}}": "figures.kernel.stages.1: 'dpp': not defined",
    "figures: {kernel: {stages: [base]}}": "figures.kernel.stages: ['base']: expected a list of at",
    "figures: {kernel: {examples: 1}}": "figures.kernel.examples: 1: expected at least 2",
    "runs: {sft: {influence: {updates: [1]}}}": "runs.sft.influence.updates.0: 1: expected at leas",
    "runs: {sft: {influence: {every: 9}}}": (
        "runs.sft.influence: windows of 25 updates every 9: expected windows that do not overlap"
    ),
    "runs: {dpo: {direction: random}}": "runs.dpo.direction: 'random': no step of the loss",
    "figures: {mass: {one_step: {batches: 1}}}": "figures.mass.one_step.batches: 1: expected at le",
    "figures: {entk_proxies: {kernel: {model: gpt}}}": (
        "figures.entk_proxies.kernel.model: 'gpt': not defined"
    ),
    "figures: {response_space: {runs: [on-hum]}}": "figures.response_space.runs: ['on-hum']: exp",
    "figures: {confidence: {runs: {sft: on-hun}}}": "figures.confidence.runs: 'on-hun': not def",
    "runs: {sft: {rows: self-play}}": "runs.sft.rows: 'self-play': sft is a loss of one response",
    "runs: {dpo: {algorithm: kto, rows: on-policy}}": "runs.dpo.rows: 'on-policy': kto compares",
    "runs: {dpo: {target: chosen}}": "runs.dpo.target: 'chosen': dpo does not read it",
    "runs: {sft: {labels: coin}}": "runs.sft.labels: 'coin': sft does not read it",
    "runs: {sft: {regenerate_every: 3}}": "runs.sft.regenerate_every: 3: sft does not read it",
    "runs: {dpo: {regenerate_every: 3}}": "runs.dpo.regenerate_every: 3: dpo does not read it",
    "runs: {dpo: {rows: self-play, labels: coin}}": (
        "runs.dpo.labels: 'coin': dpo with rows: self-play does not read it"
    ),
    "runs: {dpo: {lora: {rank: 8}}}": "runs.dpo.lora: key 'alpha' is missing",
    "runs: {dpo: {lora: {rank: 8, alpha: 0}}}": "runs.dpo.lora.alpha: 0: expected more than 0",
    "runs: {dpo: {accumulate: 0}}": "runs.dpo.accumulate: 0: expected at least 1",
    "run_defaults: {beta: 0.1}": "run_defaults.beta: unknown key; expected one of batch_size",
    "judge: {provider: gpt}": "judge.provider: 'gpt': expected one of toyworld, function",
    "judge: {provider: function, function: a}": "judge.function: 'a': expected text that matches",
    "figures: {forget: {targets: []}}": "figures.forget.targets: []: expected a list of at least 1",
    "figures: {forget: {compare: [dpo]}}": "figures.forget.compare: 'dpo': not defined; expected",
    "compute: {sharding: ddp}": "compute.sharding: 'ddp': expected one of none, fsdp",
    "compute: {processes: 0}": "compute.processes: 0: expected at least 1",
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
    assert "learning_dynamics/scoring/engine.py" in found  # through learning_dynamics/finetune.py
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

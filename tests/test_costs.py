"""What jobs are expected to take, and what they record of it."""

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_dynamics import models, usage
from learning_dynamics.architecture import MLP_WIDTH, parameters
from learning_dynamics.costs import Costs
from learning_dynamics.study import Study, load_config
from tests.conftest import ROOT, STUDY

PLACE = {"dataset": "toyworld", "model": "toy-neox"}
FILES = {"toy": [ROOT / "config.yaml"]}
FILES["paper"] = [*FILES["toy"], ROOT / "studies/paper.yaml"]
PAPER = Study(load_config(FILES["paper"]))


def changed(study="toy", **sections):
    """The costs of a study with keys of some sections changed."""
    config = load_config(FILES[study])
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values
    return Costs(Study(config))


def run(costs, name="dpo", model="toy-neox", dataset="toyworld"):
    return costs.finetune(dataset, model, name)


@given(
    kind=st.sampled_from(list(MLP_WIDTH)),
    hidden=st.sampled_from([8, 24, 64]),
    layers=st.integers(1, 3),
)
@settings(max_examples=12)
def test_parameters_are_those_of_the_model_that_is_built(tiny, kind, hidden, layers):
    """Every architecture, to the weight."""
    _, tokenizer = tiny
    spec = {"architecture": kind, "vocab_size": len(tokenizer), "hidden_size": hidden,
            "layers": layers, "heads": 2, "max_length": 64}  # fmt: skip
    with torch.device("meta"):
        model = models.build(spec, tokenizer)
    count = sum(p.numel() for p in model.parameters())
    assert parameters(spec) == (count, model.get_output_embeddings().weight.numel())


@pytest.mark.parametrize(("factor", "name"), [(2, "sft"), (3, "dpo"), (10, "on-dpo")])
def test_more_work_takes_more_time_and_no_more_memory(factor, name):
    """Epochs and probe evaluations cost time alone."""
    base = run(Costs(STUDY), name)
    entry = load_config(FILES["toy"])["runs"][name]
    runs = {name: {**entry, "epochs": entry["epochs"] * factor}}
    longer = run(changed(runs=runs), name)
    # Not in proportion where evaluations are few.
    assert base.seconds * 1.05 < longer.seconds < base.seconds * factor * 1.2
    # The tokens' log-probs that sft and dpo keep grow with the evaluations.
    assert longer.memory_mb == pytest.approx(base.memory_mb, rel=0.01)
    runs = {name: {**entry, "probe_every": 1}}
    assert run(changed(runs=runs), name).seconds > base.seconds


def test_memory_follows_optimiser_pieces_and_precision():
    """On a GPU: AdamW keeps one number more per weight than RMSprop, SGD one less; pieces and bf16
    make activations smaller; the host holds what a checkpoint is written from."""
    place = {"dataset": "hh", "model": "pythia-1.4b"}
    weights = 4 * 1400  # MB

    def gpu(**entry):
        defaults = {**PAPER.config["run_defaults"], **entry}
        return changed("paper", run_defaults=defaults).finetune(run="dpo", **place)

    rms = gpu()
    assert gpu(optimizer="adamw").gpu_memory_mb - rms.gpu_memory_mb == pytest.approx(weights)
    assert rms.gpu_memory_mb - gpu(optimizer="sgd").gpu_memory_mb == pytest.approx(weights)
    assert rms.gpu_memory_mb > 3 * weights and rms.memory_mb > 2 * weights
    assert gpu(accumulate=4).gpu_memory_mb < rms.gpu_memory_mb
    bf16 = changed("paper", compute={"precision": "bf16"}).finetune(run="dpo", **place)
    assert bf16.gpu_memory_mb < rms.gpu_memory_mb and bf16.seconds < rms.seconds
    larger = Costs(PAPER).finetune("hh", "pythia-2.8b", "dpo")
    assert larger.gpu_memory_mb > rms.gpu_memory_mb and larger.seconds > rms.seconds


def test_processes_take_gpus_and_sharding_divides_memory():
    costs = changed("paper", compute={"processes": 4, "sharding": "fsdp"})
    one, four = (c.finetune("hh", "pythia-2.8b", "dpo") for c in (Costs(PAPER), costs))
    assert (one.gpus, four.gpus) == (1, 4) and one.threads * 4 == four.threads
    assert four.seconds < one.seconds and four.gpu_memory_mb < one.gpu_memory_mb


def test_built_data_replace_what_is_assumed():
    """Lengths and rows of pairs.parquet, cut at the limits."""
    known = {"toyworld": (100.0, 60.0, 320)}
    half = {"toyworld": (100.0, 60.0, 160)}
    long = {"toyworld": (1e6, 1e6, 320)}
    times = [run(Costs(STUDY, facts)).seconds for facts in (half, known, long)]
    assert times == sorted(times) and times[2] < 100 * times[1]


def test_every_kind_has_a_cost_by_its_rules_wildcards():
    """``home`` stands for a model, ``at`` for nothing."""
    costs = Costs(STUDY)
    home = {"home": "toy-neox/seed3", "dataset": "toyworld"}
    for kind in ("sample_probes", "score_reference", "generate_answers", "measure_mutual"):
        assert costs.of(kind, home) == costs.of(kind, {**PLACE, "run": "sft", "at": ""})
    for kind in ("pretrain_model", "measure_one_step", "measure_mass"):
        assert costs.of(kind, PLACE).seconds > 0
    assert costs.of("measure_kernel", {"home": "toy-kernel/seed0", "dataset": "toyworld"}).seconds
    for kind in ("learn_digits", "track_entk"):
        assert costs.of(kind, {"network": "mlp"}).gpus == 0
    assert Costs(PAPER).of("score_reference", {"home": "pythia-1b", "dataset": "hh"}).gpus == 1


def test_a_process_knows_what_it_used():
    """CPU time and peak memory of its own, not of the process that started it."""
    held = bytearray(400_000_000)
    held[::4096] = b"1" * len(held[::4096])
    script = (
        "import time\nfrom learning_dynamics.usage import used\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "b = bytearray(100_000_000); b[::4096] = b'1' * len(b[::4096]); print(used())"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = eval(done.stdout, {"__builtins__": {}})
    assert 0.3 <= found["cpu_seconds"] < 5
    assert 0.3 <= found["seconds"] <= time.monotonic() - started + 0.05
    assert 100 < found["peak_memory_mb"] < 300
    assert "peak_gpu_memory_mb" not in found


def test_processes_of_one_job_are_added_up():
    parts = [{"seconds": 2.0, "cpu_seconds": 1.5, "peak_memory_mb": 100.0},
             {"seconds": 3.0, "cpu_seconds": 1.0, "peak_memory_mb": 150.0}]  # fmt: skip
    whole = {"seconds": 3.0, "cpu_seconds": 2.5, "peak_memory_mb": 250.0}
    assert usage.together(parts) == whole

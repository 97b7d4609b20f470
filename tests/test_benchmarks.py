"""The benchmarks at tiny shapes: contestants agree, and what is printed is what was measured. They
are never timed here."""

import argparse
import math
from functools import partial

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import gpu, harness, influence, inputs, linear, scoring, training
from benchmarks.limit import Products
from benchmarks.peers import naive_scores, rows_of
from learning_dynamics.probe import RESPONSE_TYPES

VOCABULARY = 300


@pytest.fixture(scope="module")
def text():
    """Twelve prompts of 3 to 20 tokens with 13 responses of 2 to 10 each."""
    rng = np.random.default_rng(0)

    def tokens(low, high):
        return rng.integers(1, VOCABULARY, size=rng.integers(low, high)).tolist()

    prompts = [tokens(3, 21) for _ in range(12)]
    responses = [[[*tokens(1, 10), 0] for _ in RESPONSE_TYPES] for _ in prompts]
    return inputs.Text(prompts, responses, list(RESPONSE_TYPES))


@pytest.fixture(scope="module")
def model():
    return inputs.build("tiny", VOCABULARY)


@pytest.fixture(autouse=True)
def one_precision():
    """accelerate keeps one precision per process: forget it, as a benchmark's processes do."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def args(text, tmp_path, monkeypatch):
    """Arguments of a task in a child process, for a small vocabulary."""
    monkeypatch.setattr(inputs, "build", partial(inputs.build, vocabulary=VOCABULARY))
    inputs.store(text, tmp_path / "tokens.json")
    return argparse.Namespace(
        tokens=tmp_path / "tokens.json", shape="tiny", prompts=3, rounds=2, batch_tokens=200,
        naive_batch=4, settings=["tuned"], device="cpu", peak_tflops=0.001,
    )  # fmt: skip


def test_scores_agree(model, text, args):
    """Ours, batched by a small budget, equals the naive way, one or four sequences at a time; in
    bf16 both are near, and not equal."""
    trees = text.probes(10, 3)  # round and round: prompts 10, 11 and 0
    assert trees[-1].prompt == text.prompts[0]
    one, four = (naive_scores(model, rows_of(trees), size) for size in (1, 4))
    assert len(one["logp"]) == 39
    assert harness.worst(four, one) < 1e-5
    scored = {n: scoring.contestant(n, model, args)(trees)() for n in scoring.CONTESTANTS[:4]}
    assert set(one) < set(scored["ours fp32"])
    assert harness.worst(scored["naive fp32"], one) < 1e-5
    assert harness.worst(scored["ours fp32"], one) < 1e-5
    for name in ("naive bf16", "ours bf16"):
        assert 1e-5 < harness.worst({"logp": scored[name]["logp"]}, {"logp": one["logp"]}) < 0.05


def test_naive_scores_are_the_definitions(model, text):
    """One response, from a forward pass of its own and float64."""
    tree = text.probes(0, 1, types=2)[0]
    response = tree.responses[1]
    with torch.no_grad():
        logits = model(torch.tensor([tree.prompt + response])).logits[0, len(tree.prompt) - 1 : -1]
    p = logits.double().softmax(-1)
    label = p[range(len(response)), response]
    residual = p.clone()
    residual[range(len(response)), response] -= 1
    truth = {
        "logp": label.log().sum(), "logp_argmax": p.max(-1).values.log().sum(),
        "logp_complement": (1 - p.max(-1).values).log().sum(), "prob_norm": p.norm(dim=-1).mean(),
        "residual_norm": residual.norm(dim=-1).mean(), "energy": 1 - label.mean(),
    }  # fmt: skip
    found = naive_scores(model, rows_of([tree]), 2)
    assert set(found) == set(truth)
    assert harness.worst({name: values[1] for name, values in found.items()}, truth) < 1e-5


@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_training_steps_agree(kind, model, text, args):
    """Naive, TRL and ours see the same losses along three updates, and the same first gradient."""
    pairs = training.rows_for(kind, args)
    assert len(pairs) == 12
    found = training.race(kind, "fp32", model, pairs, rounds=2)
    assert set(found["seconds"]) == {*training.contestants(kind, "fp32"), *training.FLOORS}
    assert all(len(times) == 2 for times in found["seconds"].values())
    losses = found["losses"][training.BASE]
    assert len(losses) == 3
    assert len(set(losses)) == 3
    if kind == "dpo":
        assert losses[0] == pytest.approx(math.log(2), rel=1e-6)
    for name in training.contestants(kind, "fp32"):
        assert found["loss_error"][name] < 1e-4, name
        assert found["norm_error"][name] < 1e-4, name
    shown = training.report("title", found, {"ours": 1.25}, training.PEERS[kind][-1])
    assert all(name in shown for name in found["seconds"])
    assert "1.25" in shown


def test_training_in_bf16(model, text, args):
    """Every contestant really uses bf16: near the fp32 gradient, and not equal to it."""
    trees = text.pairs()[:4]
    for name in training.contestants("dpo", "bf16")[1:]:  # the first stays in fp32
        norms = {}
        for precision in ("fp32", "bf16"):
            AcceleratorState._reset_state()
            step = training.stepper("dpo", name, model, trees, precision)
            norms[precision] = step([0, 1, 2, 3])[1]
        assert 1e-5 < abs(norms["bf16"] / norms["fp32"] - 1) < 0.05, name


def test_limit_counts_the_products(model):
    """Layer and head weights of a GPT-NeoX by hand; a pass over them runs."""
    products = Products(model, torch.float32)
    hidden, layers, _, intermediate = inputs.SHAPES["tiny"]
    assert products.layer_weights == layers * (4 * hidden**2 + 2 * hidden * intermediate)
    assert products.head_weights == VOCABULARY * hidden
    products.forward(tokens=7, positions=5, columns=128)
    products.train(tokens=9, positions=11)  # buffers grow


def test_tasks_and_tables(args):
    """What the child processes run, and the tables made of it."""
    timed = scoring.time_all(args)
    assert timed["naive_batch"] in (1, 4)
    assert set(timed["seconds"]) == set(scoring.CONTESTANTS)
    memory = {name: scoring.memory_of(args, name) for name in scoring.MEASURED}
    weights = sum(p.numel() for p in inputs.build("tiny").parameters())
    assert memory["model alone"]["model_gib"] == pytest.approx(weights * 4 / 2**30)
    shown = scoring.report("tuned", timed, memory, args)
    assert all(name in shown for name in scoring.CONTESTANTS)
    found = scoring.errors(args)
    fp32, bf16 = (found["relative"][f"ours {precision}"] for precision in ("fp32", "bf16"))
    assert max(fp32.values()) < 1e-5 < bf16["logp"]
    for name in ("naive bf16", "ours bf16"):
        change = found[name]["change"]
        assert 0 < change["mean"] < found["ours fp32"]["size of a change"]["mean"]
    assert found["ours fp32"]["change"]["max"] == 0
    assert "ours bf16" in scoring.report_errors(found)


def test_linear(args, model, tmp_path, text):
    """Sizes are what the axes say; the plot is drawn."""
    args.rounds = 1
    found = linear.seconds(scoring.contestant("ours fp32", model, args), args)
    assert found["responses"]["4 prompts"] == 52
    assert found["tokens"]["4 prompts"] == sum(map(len, text.probes(0, 4)))
    assert found["responses"]["2 types"] == 12
    found["peak_gib"] = dict.fromkeys(found["seconds"], 1.25)
    assert linear.report(found).count("1.25") == 10
    linear.draw(found, tmp_path / "linear.png")
    assert (tmp_path / "linear.png").stat().st_size > 5000


def test_influence(args):
    """Every method takes part and predicts the same update as float64; the table says so."""
    args.vocabulary, args.threads = VOCABULARY, torch.get_num_threads()
    args.prompts, args.rounds, args.methods = 2, 1, influence.METHODS
    found = influence.time_all(args)
    assert list(found["seconds"]) == influence.CONTESTANTS
    assert found["responses"] == 26
    errors = {name: error["median"] for name, error in found["errors"].items()}
    assert errors[influence.FORWARD] < 1e-3 and errors[influence.DOTS] < 1e-3
    assert errors[influence.DEFAULT] < 1e-2 and errors["measured change"] < 0.5
    shown = influence.report("tuned", found)
    assert all(name in shown for name in influence.CONTESTANTS)
    assert f"{errors[influence.DEFAULT]:.1e}" in shown


def test_contestants_take_turns():
    """Round 0 comes first and is not counted; preparation comes before the round's calls."""
    order = []

    def prepare(name, number):
        order.append(f"{name}{number} ready")
        return lambda: order.append(f"{name}{number}")

    names = {name: partial(prepare, name) for name in "ab"}
    times = harness.interleaved(names, 2)
    assert {name: len(spent) for name, spent in times.items()} == {"a": 2, "b": 2}
    assert order[:4] == ["a0 ready", "b0 ready", "a0", "b0"]
    assert [o for o in order if "ready" not in o] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_ratios_are_paired():
    """The median of ratios, not the ratio of medians."""
    slow, fast = [2.0, 30.0, 8.0], [1.0, 10.0, 1.0]
    assert harness.ratio(slow, fast) == "3.00x [2.00, 8.00]"
    assert harness.share(fast, slow) == "33%"


def test_child_has_its_setting_and_its_own_peak(tmp_path, monkeypatch):
    """A child sees its setting's environment alone, and the memory that it used itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "if sys.argv[-1] == 'fails': sys.exit(1)\n"
        f"sys.path.insert(0, {str(inputs.ROOT)!r})\n"
        "from benchmarks import harness\n"
        "held = bytearray(300 * 2**20 if sys.argv[-1] == 'much' else 1)\n"
        "seen = {k: os.environ.get(k) for k in harness.SETTINGS['tuned']}\n"
        "print(json.dumps({'seen': seen, 'peak': harness.peak_gib(), 'words': sys.argv[1:]}))\n"
    )
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    # Unlike ru_maxrss of a child of this process, which holds much.
    held = bytearray(1000 * 2**20)
    plain = harness.child(str(script), "little", ["-x"], "default")
    tuned = harness.child(str(script), "much", [], "tuned")
    assert len(held) and not any(plain["seen"].values())
    assert tuned["seen"] == harness.SETTINGS["tuned"]
    assert plain["words"] == ["-x", "--task", "little"]
    assert 0.25 < tuned["peak"] - plain["peak"] < 0.45
    assert plain["peak"] < 0.9
    with pytest.raises(SystemExit, match=r"script\.py: task 'fails' failed \(default allocator\)"):
        harness.child(str(script), "fails", [], "default")


@pytest.mark.parametrize("main", [scoring.main, training.main])
def test_absent_data_is_one_line(main, tmp_path):
    with pytest.raises(SystemExit, match=r"--data .*nowhere\.jsonl: no such file; expected HH"):
        main(["--data", str(tmp_path / "nowhere.jsonl")])


def test_hh_tokens(hh_rows):
    """Real text: lengths near Pythia's, within limits, ids within the model's vocabulary."""
    text = inputs.tokenised(inputs.DATA)
    assert "500 prompts × 13 responses" in text.describe()
    assert len(text.prompts) == len(hh_rows)
    lengths = [len(r) for row in text.responses for r in row]
    assert 55 < np.mean(lengths) < 67
    assert 108 < np.mean([len(p) for p in text.prompts]) < 132
    longest = [len(p) + max(map(len, r)) for p, r in zip(text.prompts, text.responses, strict=True)]
    assert max(longest) <= 512
    highest = max(token for row in text.responses for r in row for token in r)
    assert inputs.VOCABULARY // 2 < highest < inputs.VOCABULARY


def test_gpu_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert "no CUDA device" in capsys.readouterr().out


def test_gpu_code_on_a_cpu(model, text, args):
    """The same code on the CPU: a row per contestant; the work is two operations per weight and
    token."""
    hidden, layers, _, intermediate = inputs.SHAPES["tiny"]
    tree = text.probes(0, 1, types=1)
    layer = layers * (4 * hidden**2 + 2 * hidden * intermediate)
    operations = 2 * (len(tree[0]) * layer + len(tree[0].responses[0]) * VOCABULARY * hidden)
    assert gpu.work(tree, model) == operations
    rows = gpu.probing(model, text, args) + gpu.steps(model, text, args)
    assert len(rows) == 2 + 5 + 2
    assert all(row[4].endswith("%") for row in rows)

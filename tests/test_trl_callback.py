"""The callback for other trainers: it sees what our own scorer sees, and leaves no trace."""

import json
import os
import random
import re
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)

from learning_dynamics import borrowed, models, trajectory
from learning_dynamics import finetune as loop
from learning_dynamics import trl as callback_module
from learning_dynamics.errors import InputError
from learning_dynamics.files import read_table
from learning_dynamics.observe import codec_of, read_probes
from learning_dynamics.parallel import accelerator_of
from learning_dynamics.reference import reference_logps
from learning_dynamics.resume import Checkpoints
from learning_dynamics.rows import rows_of_update, training_rows
from learning_dynamics.scoring import METRICS, Engine
from learning_dynamics.tokens import Codec
from learning_dynamics.trained import prepared
from learning_dynamics.trl import DynamicsCallback
from tests.conftest import COMPUTE, ROOT, run_spec

trl = pytest.importorskip("trl")
from datasets import Dataset  # noqa: E402

QUIET = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True,
         "activation_checkpointing": False, "per_device_train_batch_size": 4, "logging_steps": 1,
         "learning_rate": 1e-3, "save_strategy": "no"}  # fmt: skip
EXAMPLE = next(
    block
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    if "DynamicsCallback" in block
)
KINDS = ["SFT", "DPO", "KTO", "GRPO"]


@pytest.fixture(scope="module")
def probes(toy_pairs):
    """Three prompts, y⁺ and y⁻ of each, in the order in which trajectories list them."""
    probed = toy_pairs.iloc[[0, 1, 12]]
    both = [probed.assign(response_type=k, response=probed[k]) for k in ("chosen", "rejected")]
    return read_probes(pd.concat(both).sort_values(["split", "example_id"], kind="stable"))


@pytest.fixture(scope="module")
def fresh(tiny, tmp_path_factory):
    """Function that loads the tiny model from a folder, as TRL loads the reference from there."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    models.save(*tiny, folder)
    return lambda: models.load(folder)[0]


@pytest.fixture(scope="module")
def dropping(tiny, tmp_path_factory):
    """Function that loads a small model with dropout: its training draws random numbers at every
    layer."""
    torch.manual_seed(3)
    end = tiny[1].eos_token_id
    config = GPTNeoXConfig(
        vocab_size=len(tiny[1]), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=512, hidden_dropout=0.2,
        attention_dropout=0.2, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "dropping"
    models.save(GPTNeoXForCausalLM(config), tiny[1], folder)
    return lambda: models.load(folder)[0]


def rows_for(kind, toy_pairs):
    """The toy training pairs as a trainer of this kind wants them."""
    pairs = toy_pairs[toy_pairs["split"] == "train"]
    if kind == "DPO":
        return Dataset.from_pandas(pairs[["prompt", "chosen", "rejected"]], preserve_index=False)
    if kind == "GRPO":
        return Dataset.from_pandas(pairs[["prompt"]], preserve_index=False)
    both = [pairs.assign(completion=pairs[side], label=side == "chosen") for side in
            ("chosen", "rejected")[: 1 + (kind == "KTO")]]  # fmt: skip
    columns = ["prompt", "completion", "label"][: 2 + (kind == "KTO")]
    return Dataset.from_pandas(pd.concat(both)[columns], preserve_index=False)


def options_for(kind, **changes):
    """The settings of a short training."""
    own = {"GRPO": {"num_generations": 2, "max_completion_length": 8}}
    return {**QUIET, "max_steps": 5, **own.get(kind, {}), **changes}


def length_reward(completions, **_):
    """A reward that tells responses apart."""
    return [float(len(text) % 7) for text in completions]


def trainer_of(kind, folder, model, tokenizer, toy_pairs, callbacks=(), **changes):
    """A TRL trainer over the toy pairs."""
    args = getattr(trl, f"{kind}Config")(str(folder), **options_for(kind, **changes))
    more = {"reward_funcs": length_reward} if kind == "GRPO" else {}
    return getattr(trl, f"{kind}Trainer")(
        model, args=args, train_dataset=rows_for(kind, toy_pairs), processing_class=tokenizer,
        callbacks=list(callbacks), **more,
    )  # fmt: skip


def own_scores(tokenizer, probes, *models):
    """The probing set under the models of a run, by the pipeline's scorer: tables (responses,
    metrics)."""
    trees = trajectory.probe_trees(probes, codec_of(tokenizer, models[0].config))
    scorer = trees.scorer(500)
    return [pd.DataFrame(scorer(Engine(deepcopy(model).eval())))[METRICS] for model in models]


def at_step(table, step):
    return table[table["step"] == step][METRICS].reset_index(drop=True)


# -- the example of the README -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_the_readme(kind, fresh, tiny, toy_pairs, probes, tmp_path, monkeypatch):
    """Word for word for DPO; for the others with their names, and GRPO with its reward."""
    monkeypatch.chdir(tmp_path)
    probes.to_parquet("probe.parquet")
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 10
    text = EXAMPLE.replace("DPO", kind).replace("my-dpo", f"my-{kind.lower()}")
    if kind == "GRPO":
        text = text.replace("Trainer(model,", "Trainer(model, length_reward,")
    text = text.replace("probe_every=50", "probe_every=2")
    given = {"model": fresh(), "tokenizer": tiny[1], "rows": rows_for(kind, toy_pairs),
             "options": options_for(kind), "length_reward": length_reward}  # fmt: skip
    exec(compile(text, "README.md", "exec"), given)
    folder = tmp_path / "runs" / f"my-{kind.lower()}"
    table = read_table(folder / "trajectory.parquet", trajectory.COLUMNS)
    assert list(table.columns) == trajectory.COLUMNS
    assert table["step"].unique().tolist() == [0, 2, 4, 5]
    assert (table.groupby("step").size() == len(probes)).all()
    assert table["response_type"].tolist() == 4 * probes["response_type"].tolist()
    rows = 24 if kind == "KTO" else 12
    # five updates on four rows each; GRPO's four are two answers to each of two prompts
    assert table["examples"].iloc[-1] == (10 if kind == "GRPO" else 20)
    assert table["epoch"].iloc[-1] == pytest.approx(table["examples"].iloc[-1] / rows)
    start, end = own_scores(tiny[1], probes, tiny[0], given["trainer"].model)
    for step, truth in ((0, start), (5, end)):
        pd.testing.assert_frame_equal(at_step(table, step), truth, check_exact=False, rtol=1e-6)
    assert (end["logp"] - start["logp"]).abs().max() > 1e-3
    facts = json.loads((folder / "dynamics.json").read_text())
    role = kind.lower() if kind in ("SFT", "DPO") else None
    assert (facts["role"], facts["algorithm"]) == (role, kind.lower())
    assert (facts["model"], facts["data"], facts["lr"]) == ("mine", "probes", 1e-3)
    assert facts["evaluations"] == 4 and 0 < facts["seconds_probing"] < facts["seconds"]
    assert facts["share_probing"] == pytest.approx(facts["seconds_probing"] / facts["seconds"])


@pytest.mark.parametrize(("rows", "batch", "accumulate", "drop_last"), [
    (12, 4, 1, False), (10, 4, 1, False), (10, 4, 1, True), (11, 2, 3, False), (3, 4, 1, False),
])  # fmt: skip
def test_rows_consumed(rows, batch, accumulate, drop_last, tmp_path):
    """What a plain trainer has in fact read after each update, its data counted as they pass."""
    seen, found = [], []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            seen.append(len(x))
            return {"loss": (self.weight * x).sum()}

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, train_dataloader=None, **_):
            found.append((callback_module._consumed(args, state, train_dataloader), sum(seen)))

    options = {**QUIET, "per_device_train_batch_size": batch, "num_train_epochs": 3}
    args = transformers.TrainingArguments(
        str(tmp_path), **options, gradient_accumulation_steps=accumulate,
        dataloader_drop_last=drop_last, remove_unused_columns=False,
    )  # fmt: skip
    data = [{"x": torch.ones(1)} for _ in range(rows)]
    transformers.Trainer(Model(), args, train_dataset=data, callbacks=[Count()]).train()
    assert [mine for mine, _ in found] == [truth for _, truth in found]
    assert found[-1][0] == 3 * (rows // batch * batch if drop_last else rows)


# -- no trace ----------------------------------------------------------------------------------


class LastLogs(TrainerCallback):
    """Keeps what trackers are told."""

    def on_log(self, args, state, control, logs=None, **_):
        self.logs = logs


@pytest.mark.parametrize(("kind", "attention"), [("SFT", "eager"), ("DPO", "sdpa"),
                                                 ("GRPO", "sdpa")])  # fmt: skip
def test_training_is_the_same_with_and_without(
    kind, attention, tiny, toy_pairs, probes, dropping, tmp_path
):
    """Weights, losses, optimiser, random numbers and modes, bit for bit, with dropout (and, under
    GRPO, sampling): what the callback draws or changes would show."""
    found = []
    for watched in (False, True):
        random.seed(1)
        np.random.seed(1)
        model = dropping()
        model.set_attn_implementation(attention)
        last = LastLogs()
        callbacks = [DynamicsCallback(probes, 1)] * watched + [last]
        again = {"activation_checkpointing": kind == "DPO"}  # TRL's default, recomputing
        trainer = trainer_of(kind, tmp_path / f"{watched}", model, tiny[1], toy_pairs, callbacks,
                             **again)  # fmt: skip
        trainer.train()
        states = trainer.optimizer.state_dict()["state"]
        found.append({
            "weights": [p.detach().clone() for p in trainer.model.parameters()],
            "optimizer": [states[n][k] for n in sorted(states) for k in sorted(states[n])],
            "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
            "modes": [m.training for m in trainer.model.modules()],
            "attention": trainer.model.config._attn_implementation,
            "random": [torch.random.get_rng_state(), random.getstate()[1],
                       np.random.get_state()[1].tolist()],
        })  # fmt: skip
        assert ("dynamics_share" in last.logs) == watched
    one, two = found
    for name in ("weights", "optimizer"):
        assert all(torch.equal(a, b) for a, b in zip(one[name], two[name], strict=True)), name
    assert torch.equal(one["random"][0], two["random"][0])
    assert one["random"][1:] == two["random"][1:]
    for name in ("losses", "modes", "attention"):
        assert one[name] == two[name], name
    assert one["attention"] == attention
    start = dropping().parameters()
    assert not all(torch.equal(a, b) for a, b in zip(one["weights"], start, strict=True))


def test_undisturbed(tiny):
    """Modes of single modules, attention and generators come back, after an error too; gradients
    stay."""
    model = deepcopy(tiny[0]).train()
    model.gpt_neox.layers[0].eval()
    model.set_attn_implementation("eager")
    model(torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]

    def draws():
        return torch.rand(3).tolist(), np.random.rand(), random.random()

    states = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draws()
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    with pytest.raises(RuntimeError, match="broken"), borrowed.undisturbed(model) as causal:
        assert not any(m.training for m in model.modules())
        causal.set_attn_implementation("sdpa")
        draws()
        raise RuntimeError("broken")
    assert draws() == expected
    assert [m.training for m in model.modules()] == modes and len(set(modes)) == 2
    assert model.config._attn_implementation == "eager"
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


# -- the same numbers as ours ------------------------------------------------------------------


def test_the_same_updates_give_the_trajectory_of_our_own_run(
    fresh, tiny, toy_pairs, probes, tmp_path
):
    """TRL's DPO and ours on the same rows in the same order, plain gradient descent: every column
    of both trajectories, at every update."""
    model, tokenizer = tiny
    spec = run_spec(epochs=2, optimizer="sgd", lr=2e-3, warmup=0, clip=1e9, probe_every=1)
    codec = Codec(tokenizer, 512, None, count_end=False)
    known = reference_logps(Engine(deepcopy(model)), toy_pairs, codec, COMPUTE)
    rows = training_rows(toy_pairs, codec, spec, 0, known, None)
    models.save(model, tokenizer, tmp_path / "init")
    learner = loop.Learner.of(
        prepared(tmp_path / "init", tokenizer, None, 0), spec, COMPUTE, accelerator_of(COMPUTE)
    )
    ours = loop.finetune(
        learner, rows, trajectory.probe_trees(probes, codec), 0,
        Checkpoints(tmp_path / "resume", "mark"), [],
    )[0]["trajectory"]  # fmt: skip
    order = [n for update in range(6) for n in rows_of_update(update, rows, 4, 0)]
    callback = DynamicsCallback(probes, 1)
    train = toy_pairs[toy_pairs["split"] == "train"].iloc[order].assign(split="train")
    trainer = trainer_of(
        "DPO", tmp_path / "trl", fresh(), tokenizer, train, [callback], max_steps=-1,
        num_train_epochs=1, optim="sgd", learning_rate=2e-3, lr_scheduler_type="constant",
        max_grad_norm=0.0, train_sampling_strategy="sequential", max_length=None,
    )  # fmt: skip
    trainer.train()
    theirs = read_table(tmp_path / "trl" / "trajectory.parquet", trajectory.COLUMNS)
    same = ["step", "examples", "split", "example_id", "response_type", "n_tokens"]
    pd.testing.assert_frame_equal(ours[same], theirs[same], check_dtype=False)
    moved = ours.groupby("step")["logp"].mean()
    assert moved.iloc[-1] - moved.iloc[0] < -1  # nats
    for name in METRICS:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, atol=1e-5, err_msg=name)


# -- resumed, stopped, started late --------------------------------------------------------------


class Breaks(TrainerCallback):
    """Ends the training at an update: by an error, or by asking it to stop."""

    def __init__(self, at, error=True):
        self.at, self.error = at, error

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.at:
            if self.error:
                raise KeyboardInterrupt
            control.should_training_stop = True


def llama(tokenizer):
    """A tiny Llama: the trainer of transformers 5.23 does not find GPT-NeoX's output layer again in
    its own checkpoints."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=512, initializer_range=0.2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_a_resumed_training_has_the_trajectory_of_an_unbroken_one(
    tiny, toy_pairs, probes, tmp_path
):
    """Killed after update 5 and taken up from either checkpoint: no row twice, none missing, and
    greedy tokens still those of step 0."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "learning_rate": 0.05}

    def train(folder, *more, resume=None):
        callbacks = [DynamicsCallback(probes, 1), *more]
        trainer = trainer_of("SFT", tmp_path / folder, llama(tiny[1]), tiny[1], toy_pairs,
                             callbacks, **saving)  # fmt: skip
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / folder / resume))
        return read_table(tmp_path / folder / "trajectory.parquet", trajectory.COLUMNS)

    whole = train("whole")
    assert whole["step"].unique().tolist() == list(range(7))
    with pytest.raises(KeyboardInterrupt):
        train("cut", Breaks(5))
    kept = read_table(tmp_path / "cut" / "trajectory.parquet", trajectory.COLUMNS)
    assert kept["step"].max() == 4
    for place in ("checkpoint-2", "checkpoint-4"):
        pd.testing.assert_frame_equal(train("cut", resume=place), whole, check_exact=True)
    facts = json.loads((tmp_path / "cut" / "dynamics.json").read_text())
    assert facts["evaluations"] == 7 and facts["attempts"] == 3
    assert not whole["logp_greedy0"].equals(whole["logp_argmax"])  # the maximum changed hands
    # Other probes cannot go on with it; in a new folder the trajectory begins where training does.
    cut = [str(tmp_path / "cut"), llama(tiny[1]), tiny[1], toy_pairs]
    other = DynamicsCallback(probes.assign(response=probes["response"] + "!"), 1)
    trainer = trainer_of("SFT", *cut, [other], **saving)
    with pytest.raises(InputError, match=r"trajectory\.parquet: of other probes"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    late = DynamicsCallback(probes, 5, out=tmp_path / "late")
    trainer = trainer_of("SFT", *cut, [late], **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    table = read_table(tmp_path / "late" / "trajectory.parquet", trajectory.COLUMNS)
    assert table["step"].unique().tolist() == [4, 5, 6]
    assert table["logp_greedy0"].isna().all()
    rest = whole[whole["step"] >= 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns="logp_greedy0"),
                                  rest.drop(columns="logp_greedy0"), check_exact=True)  # fmt: skip


def test_a_training_that_stops_early_is_scored_where_it_stopped(tiny, toy_pairs, probes, tmp_path):
    callbacks = [DynamicsCallback(probes, 2), Breaks(3, error=False)]
    trainer = trainer_of("SFT", tmp_path, deepcopy(tiny[0]), tiny[1], toy_pairs, callbacks)
    trainer.train()
    table = read_table(tmp_path / "trajectory.parquet", trajectory.COLUMNS)
    assert table["step"].unique().tolist() == [0, 2, 3]
    _, end = own_scores(tiny[1], probes, tiny[0], trainer.model)
    pd.testing.assert_frame_equal(at_step(table, 3), end, check_exact=False, rtol=1e-6)


# -- other models and trainers -------------------------------------------------------------------


def test_adapters(tiny, toy_pairs, probes, tmp_path):
    """LoRA: the trajectory ends with the scores of the merged model; dropout of adapters is off in
    scoring, on in training."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=32, lora_dropout=0.5, task_type="CAUSAL_LM",
                             target_modules=["query_key_value"])  # fmt: skip
    model = peft.get_peft_model(deepcopy(tiny[0]), config)
    trainer = trainer_of("SFT", tmp_path, model, tiny[1], toy_pairs,
                         [DynamicsCallback(probes, 5)], learning_rate=0.05)  # fmt: skip
    trainer.train()
    table = read_table(tmp_path / "trajectory.parquet", trajectory.COLUMNS)
    start, end = own_scores(tiny[1], probes, tiny[0], trainer.model.merge_and_unload())
    assert (end["logp"] - start["logp"]).abs().max() > 1
    for step, truth in ((0, start), (5, end)):
        pd.testing.assert_frame_equal(at_step(table, step), truth, check_exact=False, rtol=1e-4)


def test_a_plain_trainer_in_bf16(tiny, toy_pairs, probes, tmp_path, caplog):
    """transformers alone, its tokenizer given, rows without a length, activations in bf16: the
    scores are those of the weights, to bf16."""
    tokenizer = tiny[1]

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for pair in toy_pairs.itertuples():
                ids = tokenizer(pair.prompt + pair.chosen)["input_ids"][:64]
                yield {"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}

    args = transformers.TrainingArguments(str(tmp_path), **{**QUIET, "bf16": True}, max_steps=3)
    callback = DynamicsCallback(probes, 2, tokenizer=tokenizer, role="sft", data="toy")
    trainer = transformers.Trainer(
        deepcopy(tiny[0]), args, train_dataset=Stream(), callbacks=[callback],
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip
    trainer.train()
    table = read_table(tmp_path / "trajectory.parquet", trajectory.COLUMNS)
    assert table["step"].unique().tolist() == [0, 2, 3]
    assert table["examples"].unique().tolist() == [0, 8, 12] and table["epoch"].isna().all()
    trained = deepcopy(tiny[0])
    trained.load_state_dict(trainer.model.state_dict())
    exact = own_scores(tokenizer, probes, trained)[0]["logp"]
    off = (at_step(table, 3)["logp"] - exact).abs()
    assert 0 < off.max() < 0.02 * exact.abs().max()
    assert "with its own prompt" not in caplog.text  # packed, although accelerate has wrapped it
    assert trainer.model.forward.__func__ is not type(trainer.model).forward  # and still does
    facts = json.loads((tmp_path / "dynamics.json").read_text())
    assert facts["algorithm"] is None and (facts["role"], facts["data"]) == ("sft", "toy")
    assert facts["model"] == "gpt_neox"
    bare = DynamicsCallback(probes)
    trainer = transformers.Trainer(deepcopy(tiny[0]), args, callbacks=[bare])
    with pytest.raises(InputError, match="no tokenizer; expected tokenizer="):
        bare.on_train_begin(args, trainer.state, trainer.control, model=trainer.model)


def test_what_cannot_be_scored_is_refused_before_the_first_update(tiny, tmp_path):
    """Weights that are divided, in torch's way and in DeepSpeed's; learnt prompts."""
    from torch.distributed.fsdp import fully_shard

    peft = pytest.importorskip("peft")
    divided = deepcopy(tiny[0])
    next(divided.parameters()).ds_id = 0
    with pytest.raises(InputError, match=r"divided among processes.*learning_dynamics score"):
        borrowed.whole(divided)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match=r"PROMPT_TUNING: learnt prompts"):
        borrowed.whole(peft.get_peft_model(deepcopy(tiny[0]), config))
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(InputError, match="divided among processes"):
            borrowed.whole(fully_shard(deepcopy(tiny[0])))
        wrapped = torch.nn.parallel.DistributedDataParallel(deepcopy(tiny[0]))
        assert borrowed.whole(wrapped) is wrapped.module
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes(tiny, toy_pairs, probes, tmp_path):
    """DDP: the first process alone scores and writes what the weights say that both end with."""
    models.save(*tiny, tmp_path / "init")
    toy_pairs.to_parquet(tmp_path / "pairs.parquet")
    probes.to_parquet(tmp_path / "probe.parquet")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             str(ROOT / "tests/trl_worker.py"), str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "rank1").exists()
    table = read_table(tmp_path / "rank0" / "trajectory.parquet", trajectory.COLUMNS)
    assert table["step"].unique().tolist() == [0, 2, 3]
    assert table["examples"].unique().tolist() == [0, 8, 12]
    first, other = (load_file(tmp_path / f"weights{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == other.keys() and all(torch.equal(first[n], other[n]) for n in first)
    trained = deepcopy(tiny[0])
    assert not trained.load_state_dict(first, strict=False).unexpected_keys
    _, end = own_scores(tiny[1], probes, tiny[0], trained)
    assert (end["logp"] - at_step(table, 0)["logp"]).abs().max() > 1e-3
    pd.testing.assert_frame_equal(at_step(table, 3), end, check_exact=False, rtol=1e-6)


@pytest.mark.parametrize(("change", "expected"), [
    (lambda t: t.drop(columns="response"), r"column 'response' is missing"),
    (lambda t: t.assign(prompt=[*t["prompt"][:-1], 3]), r"column 'prompt' holds 3; expected text"),
    (lambda t: t.assign(split="eval"), r"split is 'eval'; expected one of train, test"),
    (lambda t: t.assign(example_id="one"), r"example_id 'one' has two prompts"),
])  # fmt: skip
def test_probes_that_are_wrong(change, expected, probes, tmp_path):
    """One line each, for a table and for a file."""
    wrong = change(probes.astype(object))
    with pytest.raises(InputError, match=expected):
        DynamicsCallback(wrong)
    if "holds" not in expected:
        wrong.to_parquet(tmp_path / "probe.parquet")
        with pytest.raises(InputError, match=expected):
            DynamicsCallback(str(tmp_path / "probe.parquet"))
    with pytest.raises(InputError, match=r"probe_every = 0: expected a whole number"):
        DynamicsCallback(probes, 0)

"""Our losses against TRL's own code: the same pairs, the same log-probs, the same numbers."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from learning_dynamics.algorithms import ALGORITHMS, algorithm
from learning_dynamics.algorithms.residuals import row_loss
from learning_dynamics.rows import training_rows
from learning_dynamics.scoring import Engine, sum_by_response
from learning_dynamics.tokens import Codec
from tests.test_registry import docs_example

trl = pytest.importorskip("trl")
from datasets import Dataset  # noqa: E402

QUIET = {"max_length": None, "use_cpu": True, "bf16": False, "report_to": "none",
         "disable_tqdm": True}  # fmt: skip
SIDES = ["chosen", "rejected"]


@pytest.fixture(scope="module")
def models(tiny):
    """(start, policy): the reference and a model some way from it."""
    start, policy = deepcopy(tiny[0]), deepcopy(tiny[0])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return start, policy


@pytest.fixture(scope="module")
def pairs(toy_pairs):
    return toy_pairs.head(4)


@pytest.fixture(scope="module")
def trees(tiny, pairs):
    codec = Codec(tiny[1], 512, None)
    spec = {"algorithm": "dpo", "labels": "given", "rows": "pairs"}
    return training_rows(pairs, codec, spec, 0, None).trees


@pytest.fixture(scope="module")
def trainer(tiny, models, pairs, tmp_path_factory):
    """TRL's DPO trainer over copies of the models."""
    arguments = trl.DPOConfig(output_dir=str(tmp_path_factory.mktemp("trl")), beta=0.1, **QUIET)
    return trl.DPOTrainer(
        deepcopy(models[1]), deepcopy(models[0]), arguments, processing_class=tiny[1],
        train_dataset=Dataset.from_pandas(pairs[["prompt", "chosen", "rejected"]]),
    )  # fmt: skip


def values_of(policy, start, trees):
    """What a loss of sums may ask for, from the engine; gradient through the policy."""
    values = {}
    for prefix, model in (("", policy), ("ref_", start)):
        engine = Engine(model)
        batch = engine.pack(trees)
        sums = sum_by_response(engine(batch).logp, batch).view(-1, 2)
        sums = sums.detach() if prefix else sums
        values |= {f"{prefix}{side}": sums[:, n] for n, side in enumerate(SIDES)}
    for n, side in enumerate(SIDES):
        values[f"{side}_length"] = torch.tensor([len(tree.responses[n]) for tree in trees])
    return values


@pytest.fixture(scope="module")
def values(models, trees):
    with torch.no_grad():
        return values_of(models[1], models[0], trees)


def ours(name, values, **spec):
    return row_loss(ALGORITHMS[name], values, spec)


def theirs(trainer, loss_type, beta, label_smoothing=0.0):
    """TRL's loss of each pair by itself."""
    trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
    trainer.beta, trainer.label_smoothing = beta, label_smoothing
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    with torch.no_grad():
        return torch.stack(
            [trainer.compute_loss(trainer.model, trainer.data_collator([row])) for row in rows]
        )


def test_tokens_are_trls(trainer, trees):
    """Prompt and responses, end-of-text included."""
    for number, tree in enumerate(trees):
        row = trainer.train_dataset[number]
        assert row["prompt_ids"] == tree.prompt
        assert [row["chosen_ids"], row["rejected_ids"]] == tree.responses


def test_losses_of_dpo_trainer(trainer, values, tmp_path):
    """Every loss that TRL's DPO trainer shares with us, row by row.

    IPO and sigmoid_norm are of means over tokens there: ours are given means. Its hinge is SLiC on
    log-ratios without the regulariser, β times ours with δ = 1/β. Its sppo_hard has η = 1/β.
    """
    beta, e = 0.25, 0.2
    means = dict(values)
    for side in SIDES:
        for prefix in ("", "ref_"):
            means[prefix + side] = values[prefix + side] / values[f"{side}_length"]
    ratios = {side: values[side] - values[f"ref_{side}"] for side in SIDES}
    example = algorithm(docs_example(tmp_path))
    expected = {
        ("sigmoid", 0.0): ours("dpo", values, beta=beta),
        ("robust", e): ours("rdpo", values, beta=beta, label_smoothing=e),
        ("ipo", 0.0): ours("ipo", means, beta=beta),
        ("hinge", 0.0): beta * ours("slic", ratios, beta=0.0, delta=1 / beta),
        ("sppo_hard", 0.0): ours("sppo", values, eta=1 / beta),
        ("sigmoid_norm", 0.0): row_loss(example, values, {"beta": beta}),
    }
    for (loss_type, smoothing), mine in expected.items():
        found = theirs(trainer, loss_type, beta, smoothing)
        # margins are differences of sums of hundreds of nats, in fp32
        torch.testing.assert_close(
            mine, found, rtol=1e-4, atol=2e-4, msg=lambda m, t=loss_type: t + m
        )
        assert found.std() > 1e-4


def test_dpo_and_its_gradient(trainer, models, trees):
    """Loss of the batch, and the gradient of every weight."""
    start, policy = models[0], deepcopy(models[1])
    loss = ours("dpo", values_of(policy, start, trees), beta=0.1).mean()
    loss.backward()
    theirs(trainer, "sigmoid", 0.1)
    rows = [trainer.train_dataset[i] for i in range(len(trees))]
    trainer.model.zero_grad()
    other = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    torch.testing.assert_close(loss.detach(), other.detach(), rtol=0, atol=5e-5)
    other.backward()
    for mine, their in zip(policy.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-3, atol=1e-5)


def test_losses_without_a_reference(values):
    """CPO's preference term, SimPO and ORPO's odds ratio, by TRL's own functions on the same
    log-probs. Conservative DPO is CPO's function with label smoothing on log-ratios. The likelihood
    terms, which TRL takes as means over the batch's tokens, are added by hand."""
    pytest.importorskip("trl.experimental.cpo")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    here = SimpleNamespace(device="cpu")
    cpo = SimpleNamespace(alpha=0.0, beta=0.3, loss_type="sigmoid", label_smoothing=0.0,
                          simpo_gamma=0.6, accelerator=here)  # fmt: skip
    orpo = SimpleNamespace(beta=0.2, accelerator=here)
    sums = [values[side] for side in SIDES]
    means = [values[side] / values[f"{side}_length"] for side in SIDES]
    ratios = [values[side] - values[f"ref_{side}"] for side in SIDES]
    found = {
        "cpo": CPOTrainer.cpo_loss(cpo, *sums)[0] - sums[0],
        "orpo": -ORPOTrainer.odds_ratio_loss(orpo, *means)[0] - means[0],
    }
    cpo.loss_type = "simpo"
    found["simpo"] = CPOTrainer.cpo_loss(cpo, *means)[0]
    cpo.loss_type, cpo.label_smoothing = "sigmoid", 0.2
    found["cdpo"] = CPOTrainer.cpo_loss(cpo, *ratios)[0]
    specs = {"cpo": {"beta": 0.3, "weight": 1.0}, "orpo": {"weight": 0.2},
             "simpo": {"beta": 0.3, "gamma": 0.6},
             "cdpo": {"beta": 0.3, "label_smoothing": 0.2}}  # fmt: skip
    for name, spec in specs.items():
        torch.testing.assert_close(ours(name, values, **spec), found[name], rtol=1e-5, atol=1e-5)


def test_kto(tiny, models, pairs, values, tmp_path):
    """Each pair as a desirable and an undesirable example; TRL averages over examples, we over
    pairs, and its mismatched responses are scored here by plain forward passes."""
    start, policy = models
    rows = [
        {"prompt": pair.prompt, "completion": getattr(pair, side), "label": side == "chosen"}
        for pair in pairs.itertuples()
        for side in SIDES
    ]
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path), beta=0.1, desirable_weight=1.3, undesirable_weight=0.7,
        per_device_train_batch_size=len(rows), **QUIET,
    )  # fmt: skip
    trainer = trl.KTOTrainer(
        deepcopy(policy), deepcopy(start), arguments, processing_class=tiny[1],
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])

    def plain(model):
        ids, keep = batch["KL_input_ids"], batch["KL_completion_mask"][:, 1:]
        logits = model(input_ids=ids, attention_mask=batch["KL_attention_mask"]).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (logp * keep).sum(1)

    with torch.no_grad():
        known = {**values, "mismatched": plain(policy), "ref_mismatched": plain(start)}
        found = trainer.compute_loss(trainer.model, batch)
    assert (known["mismatched"] - known["ref_mismatched"]).mean() > 0.1  # the point is not at 0
    mine = ours("kto", known, beta=0.1, desirable_weight=1.3, undesirable_weight=0.7)
    assert mine.mean().item() / 2 == pytest.approx(found.item(), abs=2e-5)

"""The other contestants: the naive way in plain transformers, and TRL's trainers.

The naive way is the recipe of the reference implementation: every response is a sequence with its
whole prompt, and every position gets a softmax over the whole vocabulary. It is written without
needless waste (no second one-hot in int64, no copies to the host within a batch).
"""

import os
import tempfile
import warnings

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from learning_dynamics import models
from learning_dynamics.scoring import Tree

Row = tuple[list[int], list[int]]  # prompt, response


def rows_of(trees: list[Tree]) -> list[Row]:
    """One row per response, with its prompt."""
    return [(tree.prompt, response) for tree in trees for response in tree.responses]


def padded(rows: list[Row], device: str | torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids, attention mask and labels (−100 outside responses), each (rows, longest)."""
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end], seen[i, :end] = torch.tensor(prompt + response), 1
        labels[i, len(prompt) : end] = torch.tensor(response)
    return ids.to(device), seen.to(device), labels.to(device)


@torch.no_grad()
def naive_scores(model: PreTrainedModel, rows: list[Row], size: int) -> dict[str, Tensor]:
    """What the reference implementation records of a response, ``size`` sequences at a time:
    sums (log-probs) and means (norms, energy) over its positions, each (rows,)."""
    parts = []
    for start in range(0, len(rows), size):
        ids, seen, labels = padded(rows[start : start + size], model.device)
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        label, valid = labels[:, 1:, None].clamp_min(0), labels[:, 1:] >= 0
        logp, prob = logits.log_softmax(-1), logits.softmax(-1)
        one_hot = torch.zeros_like(prob).scatter_(-1, label, 1.0)
        greedy = prob.argmax(-1, keepdim=True)
        sums = {
            "logp": logp.gather(-1, label)[..., 0],
            "logp_argmax": logp.gather(-1, greedy)[..., 0],
            "logp_complement": (1 - prob.gather(-1, greedy)[..., 0]).log(),
        }
        means = {
            "prob_norm": prob.norm(dim=-1),
            "residual_norm": (prob - one_hot).norm(dim=-1),
            "energy": 1 - prob.gather(-1, label)[..., 0],
        }
        part = {name: (value * valid).sum(1) for name, value in {**sums, **means}.items()}
        parts.append({n: v / valid.sum(1) if n in means else v for n, v in part.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Naive:
    """A training step in plain transformers: whole sequences, padded; log_softmax of everything;
    for DPO the reference model's forward pass in every step."""

    def __init__(
        self, model: PreTrainedModel, reference: PreTrainedModel | None, spec: dict
    ) -> None:
        self.model, self.reference, self.spec = model, reference, spec
        self.optimizer = torch.optim.RMSprop(model.parameters(), lr=spec["lr"])

    def step(self, trees: list[Tree]) -> tuple[float, float]:
        """One update; loss (nats per row) and gradient norm before clipping."""
        sides = zip(*(tree.responses for tree in trees), strict=True)
        rows = [(tree.prompt, r) for side in sides for tree, r in zip(trees, side, strict=True)]
        ids, seen, labels = padded(rows, self.model.device)
        policy = self._logps(self.model, ids, seen, labels)
        if self.reference is None:
            loss = -policy.mean()
        else:
            with torch.no_grad():
                reference = self._logps(self.reference, ids, seen, labels)
            chosen, rejected = (policy - reference).chunk(2)
            loss = -logsigmoid(self.spec["beta"] * (chosen - rejected)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item(), norm.item()

    def _logps(self, model: PreTrainedModel, ids: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        with models.autocast(self.spec):
            logits = model(input_ids=ids, attention_mask=seen).logits
        logp = logits[:, :-1].float().log_softmax(-1)
        label = labels[:, 1:, None]
        return (logp.gather(-1, label.clamp_min(0)) * (label >= 0)).sum((1, 2))


class TRL:
    """TRL's DPOTrainer, or (without a reference model or precomputed log-probs) its SFTTrainer.

    A step is what ``train()`` does for a batch: collate, ``training_step`` (forward and backward),
    clip, optimiser. Logging, saving, schedules and the data loader are left out, in TRL's favour;
    gradient checkpointing, its default, is off. The token ids are given, so that all contestants
    train on the same ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        spec: dict,
        trees: list[Tree],
        precompute: bool = False,
    ) -> None:
        os.environ["TQDM_DISABLE"] = "1"
        warnings.simplefilter("ignore", FutureWarning)  # the libraries' own affairs
        from datasets import Dataset, disable_progress_bars
        from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

        class Tokenised(DPOTrainer):
            """Takes rows that are tokenised already, as SFTTrainer does."""

            def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
                return dataset

        disable_progress_bars()
        self.folder = tempfile.TemporaryDirectory()
        self.preference = reference is not None or precompute
        common = {
            "output_dir": self.folder.name, "per_device_train_batch_size": spec["batch_size"],
            "learning_rate": spec["lr"], "optim": "rmsprop", "max_grad_norm": spec["clip"],
            "bf16": spec["precision"] == "bf16", "use_cpu": spec["device"] == "cpu",
            "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
            "logging_strategy": "no", "save_strategy": "no", "dataloader_pin_memory": False,
        }  # fmt: skip
        tokenizer = models.train_tokenizer(["only its padding token is used"], 300, 512)
        if self.preference:
            data = [
                {
                    "prompt_ids": t.prompt,
                    "chosen_ids": t.responses[0],
                    "rejected_ids": t.responses[1],
                }
                for t in trees
            ]
            args = DPOConfig(
                **common, beta=spec["beta"], precompute_ref_log_probs=precompute, max_length=None
            )
            self.trainer = Tokenised(
                model, reference, args, train_dataset=Dataset.from_list(data),
                processing_class=tokenizer,
            )  # fmt: skip
            self.rows = list(self.trainer.train_dataset)
        else:
            # Packing lays rows end to end in one sequence; here the rows of a batch, so that
            # nothing is padded, nothing cut, and the rows are those of the other contestants.
            self.rows = [
                {"input_ids": t.prompt + r, "labels": [-100] * len(t.prompt) + r}
                for t in trees
                for r in t.responses
            ]
            args = SFTConfig(**common, packing=True, max_length=2048)
            self.trainer = SFTTrainer(
                model, args, train_dataset=Dataset.from_list(self.rows), processing_class=tokenizer
            )
        trainer = self.trainer
        trainer.create_optimizer()
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.current_gradient_accumulation_steps = 1

    def step(self, numbers: list[int]) -> tuple[float, float]:
        """One update on the rows called ``numbers``; loss (nats per row) and gradient norm before
        clipping."""
        trainer, rows = self.trainer, [self.rows[i] for i in numbers]
        inputs = trainer.data_collator(rows)
        # The loss of SFTTrainer is a sum over tokens, divided by what it is told: here by rows.
        count = None if self.preference else torch.tensor(len(rows), device=self.model.device)
        loss = trainer.training_step(self.model, inputs, count)
        norm = trainer.accelerator.clip_grad_norm_(
            self.model.parameters(), trainer.args.max_grad_norm
        )
        self.optimizer.step()
        self.model.zero_grad()
        return loss.item(), float(norm)

"""One training of transformers' Trainer in several processes, for test_trl_callback:
``trl_worker.py <folder>``. Each process gives the callback a folder of its own and saves what it
trained."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from learning_dynamics import models
from learning_dynamics.files import read_table
from learning_dynamics.trl import DynamicsCallback


def main() -> None:
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    model, tokenizer = models.load(folder / "init")
    rows = []
    for pair in read_table(folder / "pairs.parquet", ["prompt", "chosen"]).itertuples():
        ids = tokenizer(pair.prompt + pair.chosen)["input_ids"][:64]
        rows.append({"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)})
    args = TrainingArguments(
        str(folder / "out"), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=3,
        per_device_train_batch_size=2, learning_rate=1e-3, save_strategy="no",
        ddp_backend="gloo",
    )  # fmt: skip
    callback = DynamicsCallback(folder / "probe.parquet", 2, out=folder / f"rank{rank}",
                                tokenizer=tokenizer)  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, callbacks=[callback],
                      data_collator=DataCollatorForSeq2Seq(tokenizer))  # fmt: skip
    trainer.train()
    assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    save_file(weights, folder / f"weights{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

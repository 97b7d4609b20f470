"""Valid inputs of every kind, made once by the project itself, for the fuzz to start from."""

import json
import logging
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPUTE = {"device": "cpu", "precision": "fp32", "threads": 1, "batch_tokens": 600,
           "sharding": "none", "processes": 1, "tracker": None}  # fmt: skip
MODEL = {"source": "pretrain", "corpus": "toyworld", "architecture": "gpt_neox",
         "vocab_size": 300, "hidden_size": 8, "layers": 1, "heads": 2, "threads": 1, "updates": 2,
         "batch_size": 2, "sequence_length": 16, "lr": 1e-3, "max_length": 400,
         "max_prompt_length": 200}  # fmt: skip
TEXTS = {"confounds": {"truncation": "corrected", "end_of_text": "corrected"}}
PROBE = {"train": 2, "test": 2, "own_types": {}, "temperature": 1.0, "sample_tokens": 4,
         "types": ["chosen", "rejected", "irr_train", "irr_test", "irr_hum",
                   "random_permute"]}  # fmt: skip
RUN = {
    "algorithm": "sft", "init": "base", "epochs": 1, "lr": 1e-3, "batch_size": 4,
    "optimizer": "rmsprop", "warmup": 0, "clip": 10.0, "target": "chosen", "probe_every": 1,
    "checkpoint_every": 1, "rows": "pairs", "accumulate": 1, "lora": None, "length_buckets": 1,
    "checkpointing": False, "direction": "loss", "proxies": None,
}  # fmt: skip
FINETUNE = ["finetune", "--spec", json.dumps(RUN), "--model-spec", json.dumps(MODEL), "--compute",
            json.dumps(COMPUTE), "--texts", json.dumps(TEXTS), "--seed", "0", "--init", "model",
            "--pairs", "pairs.parquet", "--probes", "probe.parquet", "--out", "out"]  # fmt: skip
SCORE = ["score_reference", "--model", "model", "--pairs", "pairs.parquet", "--compute",
         json.dumps(COMPUTE), "--model-spec", json.dumps(MODEL), "--texts", json.dumps(TEXTS),
         "--out", "out/reference.parquet"]  # fmt: skip
ROWS = [
    {
        "example_id": f"e{i}", "prompt": f"\n\nHuman: question {i} of many?\n\nAssistant:",
        "chosen": f" yes, number {i} is right.", "rejected": f" no, {i} is wrong.",
        "irr_hum": f"It was day {i} at sea.", "chosen_gptsemantic": f"Indeed {i}.",
    }
    for i in range(12)
]  # fmt: skip


def as_jsonl(rows: list) -> bytes:
    """Rows as a file of JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def model_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of the model's folder."""
    return {name: content for name, content in files.items() if name.startswith("model/")}


def make(folder: Path) -> dict[str, bytes]:
    """The files of a small study, by path: tables, a model, a run that was interrupted, a
    published run. Made in a fork, so that this process stays free of torch's threads."""
    job = os.fork()
    if not job:
        code = 1
        try:
            os.chdir(folder)
            _make()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(job, 0)[1]:
        raise RuntimeError("the valid inputs cannot be made")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _make() -> None:
    import numpy as np
    import pandas as pd
    import torch

    from learning_dynamics import answers, models, pairs, resume
    from learning_dynamics.files import write_table
    from learning_dynamics.published import KEY_ORDERS, PROBES
    from tests.reliability.cage import run_words

    torch.set_num_threads(1)
    world = {"source": "toyworld", "world_seed": 1, "train_rows": 8, "test_rows": 6,
             "documents": 60, "confounds": dict.fromkeys(
                 ["leading_space", "row_sampling", "irr_test_origin"], "corrected")}  # fmt: skip
    data = pairs.build(world)
    write_table("pairs.parquet", data.pairs)
    write_table("given.parquet", data.given.astype("str"))
    empty = pd.DataFrame(columns=answers.COLUMNS)
    write_table("rephrases.parquet", empty, answers.SCHEMA)
    write_table("rows.parquet", pd.DataFrame(ROWS))
    probes = data.pairs[:3].rename(columns={"chosen": "response"})
    write_table("probe.parquet", probes.assign(made_by="test", response_type="chosen"))
    model, tokenizer, _ = models.pretrain(data.corpus, MODEL, 0)
    models.save(model, tokenizer, Path("model"))
    for number, keys in enumerate((KEY_ORDERS[0], KEY_ORDERS[2], KEY_ORDERS[4])):
        here = Path(f"published/run{number}")
        here.mkdir(parents=True)
        drawn = np.random.default_rng(number).normal(-90.0, 9.0, (2, len(keys), PROBES))
        for index, key in enumerate(keys):
            if key.endswith("A_o") or key in ("energy", "p_e"):
                drawn[:, index] = 0.9 + drawn[:, index] / 1e4
        lines = [json.dumps(dict(zip(keys, m, strict=True))) for m in drawn.mean(axis=2).tolist()]
        (here / "prob_train_metrics.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if number == 1:
            np.save(here / "logp_npy_all_chosen.npy", drawn)
    # A run whose resume checkpoint is left: as if it were killed before it cleared up.
    resume.Checkpoints.remove = lambda self: None
    logging.disable()
    if run_words(FINETUNE):
        raise RuntimeError("the run of the valid inputs failed")
    left = {".resume"}
    for path in Path("out").iterdir():
        if path.name == "trajectory.parquet":
            path.rename("trajectory.parquet")
        elif path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

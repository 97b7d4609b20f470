"""How long 40,000 preference pairs take to be read, tokenised, filtered by length and written.

    python benchmarks/pairs.py [rows]

Makes a file of HH-like rows (prompt 92 words, responses 49 and 37 words on average, as in HH) and
a byte-level BPE of 8,000 tokens trained on a part of them, then runs the workflow's own script with
a length filter, and prints wall time, CPU time and peak memory of that process. Beside it, in the
same run, the same work done with the `datasets` library alone (load_dataset, map, filter,
to_parquet; one process), and the ratio.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from learning_dynamics import models  # noqa: E402
from learning_dynamics.study import Study, load_config  # noqa: E402

LIMIT = 256  # tokens of prompt and longer response
PEER = """
import sys
from datasets import load_dataset
from tokenizers import Tokenizer
source, tokenizer, out, limit = sys.argv[1:]
encoder = Tokenizer.from_file(tokenizer)
def count(batch):
    sizes = [[len(e) for e in encoder.encode_batch(batch[name], add_special_tokens=False)]
             for name in ("prompt", "chosen", "rejected")]
    return {"tokens": [p + max(c, r) + 1 for p, c, r in zip(*sizes)]}
data = load_dataset("json", data_files=source, split="train", cache_dir=out + ".cache")
data = data.map(count, batched=True)
data.filter(lambda n: n <= int(limit), input_columns="tokens").to_parquet(out)
"""


def write_rows(path: Path, count: int) -> list[str]:
    """Distinct rows of words with Zipf frequencies; the first 2,000 prompts, for the tokenizer."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(20_000)])
    weights = 1 / np.arange(1, len(words) + 1)
    some = []

    def text(mean: int) -> str:
        size = max(1, int(rng.gamma(2.0, mean / 2)))
        return " ".join(rng.choice(words, size, p=weights / weights.sum()))

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {
                "prompt": f"\n\nHuman: {number} {text(91)}?\n\nAssistant:",
                "chosen": f" {text(49)}.",
                "rejected": f" {text(37)}.",
            }
            file.write(json.dumps(row) + "\n")
            if number < 2000:
                some.append(row["prompt"] + row["chosen"])
    return some


def measured(words: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak GiB of a command."""
    started = time.perf_counter()
    quiet = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    _, status, usage = os.wait4(subprocess.Popen(words, env=quiet).pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(words[:3])}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, cpu, usage.ru_maxrss / 2**20


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = place / "rows.jsonl"
        corpus = write_rows(source, count)
        models.train_tokenizer(corpus, 8000, 2048).save_pretrained(place / "model")
        config = load_config([ROOT / "config.yaml"])
        config["datasets"]["mine"] = {"source": "file", "path": str(source)}
        spec = Study(config).datasets["mine"]
        spec["filter"] = {"max_tokens": LIMIT, "tokenizer": "model"}
        ours = measured(
            [sys.executable, str(ROOT / "workflow_scripts/build_pairs.py"), "--spec",
             json.dumps(spec), "--files", str(source), "--tokenizer", str(place / "model"),
             "--pairs", str(place / "pairs.parquet"), "--corpus", str(place / "corpus.parquet"),
             "--given", str(place / "given.parquet"), "--log", str(place / "log")]
        )  # fmt: skip
        peer = measured(
            [sys.executable, "-c", PEER, str(source), str(place / "model/tokenizer.json"),
             str(place / "peer.parquet"), str(LIMIT)]
        )  # fmt: skip
        kept = [line for line in (place / "log").read_text().splitlines() if "filter:" in line]
    print(f"{count} pairs; {kept[0].split('filter: ')[1]}")
    for name, (wall, cpu, memory) in (("this workflow", ours), ("datasets alone", peer)):
        print(f"{name:15s} wall {wall:6.1f} s   CPU {cpu:6.1f} s   peak {memory:.2f} GiB")
    print(f"ratio of wall times, datasets / this workflow: {peer[0] / ours[0]:.2f}")


if __name__ == "__main__":
    main()

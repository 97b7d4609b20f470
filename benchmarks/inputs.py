"""What the contestants work on: a model of a known shape and real text, as tokens."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedModel

from learning_dynamics import models
from learning_dynamics.probe import RESPONSE_TYPES
from learning_dynamics.scoring import Tree
from learning_dynamics.tokens import Codec

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data/hh-helpful-base/probe_train.jsonl"
VOCABULARY = 50_304
# A vocabulary whose mean response on the HH probes is as long as under Pythia's tokenizer.
TOKENS = 8_000
PYTHIA = "prompt 120, response 61"
# hidden, layers, heads, intermediate: one for tests, the toy study's, Pythia's.
SHAPES = {
    "tiny": (64, 2, 4, 128),
    "toy": (128, 3, 4, 512),
    "70m": (512, 6, 8, 2048),
    "410m": (1024, 24, 16, 4096),
}


@dataclass(frozen=True)
class Text:
    """Tokenised probes: per prompt its responses of all types, end-of-text included."""

    prompts: list[list[int]]
    responses: list[list[list[int]]]
    types: list[str]

    def probes(self, start: int, count: int, types: int | None = None) -> list[Tree]:
        """``count`` prompts from ``start`` on (round and round) with their first ``types``
        responses."""
        chosen = [i % len(self.prompts) for i in range(start, start + count)]
        return [Tree(self.prompts[i], self.responses[i][:types]) for i in chosen]

    def pairs(self) -> list[Tree]:
        """Prompt, chosen and rejected of every row."""
        sides = [self.types.index("chosen"), self.types.index("rejected")]
        both = zip(self.prompts, self.responses, strict=True)
        return [Tree(prompt, [responses[s] for s in sides]) for prompt, responses in both]

    def describe(self) -> str:
        """Mean lengths, beside those under Pythia's tokenizer."""
        prompt = statistics.mean(map(len, self.prompts))
        response = statistics.mean(len(r) for row in self.responses for r in row)
        return (
            f"{len(self.prompts)} prompts × {len(self.types)} responses; mean tokens: prompt "
            f"{prompt:.0f}, response {response:.0f} (Pythia's tokenizer: {PYTHIA})"
        )


def tokenised(path: Path, limit: int = 512) -> Text:
    """The rows of a published probing file under a byte-level BPE trained on them. At most
    ``limit`` tokens of prompt and response; ids are spread over the whole vocabulary, in which the
    order of a BPE means nothing to a random model.

    Raises:
        SystemExit: when the file is absent. Nothing is made up in its place.
    """
    if not path.is_file():
        raise SystemExit(f"--data {path}: no such file; expected HH probes (prompt and 13 types)")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    corpus = [text for row in rows for text in row.values()]
    codec = Codec(models.train_tokenizer(corpus, TOKENS, limit), limit, limit // 2)
    trees = [
        codec.row(row["prompt"], [row[t] for t in RESPONSE_TYPES], f"row {number}")
        for number, row in enumerate(rows)
    ]
    gap = VOCABULARY // TOKENS
    spread = [[i * gap for i in tree.prompt] for tree in trees]
    return Text(
        spread,
        [[[i * gap for i in r] for r in tree.responses] for tree in trees],
        list(RESPONSE_TYPES),
    )


def store(text: Text, path: Path) -> None:
    """Write tokens for child processes, which then need no tokenizer and no memory for one."""
    path.write_text(json.dumps(asdict(text)), encoding="utf-8")


def stored(path: Path) -> Text:
    """Read what :func:`store` wrote."""
    return Text(**json.loads(path.read_text(encoding="utf-8")))


def build(shape: str, vocabulary: int = VOCABULARY, seed: int = 0) -> PreTrainedModel:
    """A GPT-NeoX of random weights, fp32, without dropout. Its output layer is scaled so that
    logits spread by about 3, as a trained model's do: near-uniform ones would hide rounding."""
    hidden, layers, heads, intermediate = SHAPES[shape]
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=intermediate, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3 / (config.initializer_range * hidden**0.5))
    return model.eval()

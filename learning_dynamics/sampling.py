"""Response types that a base model writes: its own answer (chosen_initial) and its own rewording of
y⁺ (chosen_selfr)."""

import numpy as np
import pandas as pd
import torch

from learning_dynamics.probe import PROBE_COLUMNS
from learning_dynamics.tokens import Codec
from learning_dynamics.toyworld import END_OF_TURN, rephrase_prompt


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    codec: Codec,
    prompts: list[str],
    max_new: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """One sampled response per prompt, cut at end-of-text or the next human turn.

    Prompts are left-padded into one batch; ``seed`` fixes the draws.
    """
    tokenizer = codec.tokenizer
    ids = [codec.prompt(text, f"sample {i}") for i, text in enumerate(prompts)]
    width = max(map(len, ids))
    device = next(model.parameters()).device
    batch = torch.full((len(ids), width), codec.end_of_text)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for row, tokens in enumerate(ids):
        batch[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    torch.manual_seed(seed)
    out = model.generate(
        input_ids=batch.to(device),
        attention_mask=mask.to(device),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new,
        use_cache=True,
        pad_token_id=codec.end_of_text,
    )
    texts = tokenizer.batch_decode(out[:, width:].cpu(), skip_special_tokens=True)
    return [text.split(END_OF_TURN)[0] for text in texts]


def sample_probes(
    probes: pd.DataFrame, model: torch.nn.Module, codec: Codec, probe: dict, seed: int, name: str
) -> pd.DataFrame:
    """The sampled response types for every probed prompt, as rows of the probe table.

    ``made_by`` is ``name``, the base model's path in the study. A type that the probe set already
    holds is not sampled again.
    """
    base = probes[probes["response_type"] == "chosen"].reset_index(drop=True)
    asks = {
        "chosen_initial": list(base["prompt"]),
        "chosen_selfr": [rephrase_prompt(text) for text in base["response"]],
    }
    have = set(probes["response_type"])
    tables = []
    for number, (kind, prompts) in enumerate(asks.items()):
        if kind in have or kind not in probe["types"]:
            continue
        limits = probe["sample_tokens"], probe["temperature"]
        draws = np.random.default_rng([seed, number]).integers(2**31)
        texts = generate(model, codec, prompts, *limits, seed=int(draws))
        table = base[["split", "example_id", "prompt"]].assign(
            response_type=kind, response=texts, made_by=name
        )
        tables.append(table[PROBE_COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else base[PROBE_COLUMNS].head(0)

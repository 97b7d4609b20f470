"""What models write: the probe set's sampled response types (a base model's own answer,
chosen_initial, and its own rewording of y⁺, chosen_selfr), and answers at checkpoints."""

import numpy as np
import pandas as pd
import torch

from learning_dynamics.errors import InputError
from learning_dynamics.pairs import house_start, with_start
from learning_dynamics.probe import PROBE_COLUMNS, SAMPLED_TYPES
from learning_dynamics.tokens import Codec


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    codec: Codec,
    prompts: list[str],
    max_new: int,
    temperature: float,
    seed: int,
    turn: str,
    batch_tokens: int,
) -> list[tuple[str, bool]]:
    """One sampled response of at most ``max_new`` tokens per prompt, cut at end-of-text or at the
    string ``turn`` that opens the next human turn; and whether one of these ended it.

    Prompts of similar length are left-padded into batches of at most ``batch_tokens`` tokens
    (responses included); ``seed`` fixes the draws.
    """
    ids = [codec.prompt(text, f"sample {i}") for i, text in enumerate(prompts)]
    device = next(model.parameters()).device
    texts = [("", True)] * len(ids)
    torch.manual_seed(seed)
    rooms = [min(max_new, codec.max_length - len(tokens)) for tokens in ids]
    # Longest first: what does not fit into memory fails at once.
    waiting = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    while waiting:
        width, room = len(ids[waiting[0]]), rooms[waiting[0]]
        size = max(1, batch_tokens // (width + room))
        # How long a response may be depends on its own prompt alone.
        group = [i for i in waiting[:size] if rooms[i] == room]
        waiting = waiting[len(group) :]
        batch = torch.full((len(group), width), codec.end_of_text)
        mask = torch.zeros(len(group), width, dtype=torch.long)
        for row, index in enumerate(group):
            batch[row, width - len(ids[index]) :] = torch.tensor(ids[index])
            mask[row, width - len(ids[index]) :] = 1
        out = model.generate(
            input_ids=batch.to(device),
            attention_mask=mask.to(device),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=room,
            use_cache=True,
            eos_token_id=codec.end_of_text,
            pad_token_id=codec.end_of_text,
        )
        tokens = out[:, width:].cpu()
        ended = (tokens == codec.end_of_text).any(1).tolist()
        written = codec.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for index, text, end in zip(group, written, ended, strict=True):
            before, turned, _ = text.partition(turn) if turn else (text, "", "")
            texts[index] = before, bool(end or turned)
    return texts


def sample_answers(
    pairs: pd.DataFrame,
    model: torch.nn.Module,
    codec: Codec,
    spec: dict,
    turn: str,
    batch_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """A model's answers to held-out and training prompts: ``split, example_id, prompt, response,
    ended`` (whether the model ended it itself).

    Which prompts is the same for every model and seed of a data set.

    Args:
        pairs: the pairs table.
        spec: section ``answers`` of the configuration.
        turn: what opens the data set's next turn, where answers are cut.

    Raises:
        InputError: when there are fewer prompts than ``spec`` asks for.
    """
    parts = []
    for stream, split in enumerate(("test", "train")):
        rows = pairs[pairs["split"] == split]
        wanted = len(rows) if spec[split] is None else spec[split]
        if wanted > len(rows):
            raise InputError(
                f"answers.{split} = {wanted}: the data set has {len(rows)} {split} pairs; expected "
                "at most that"
            )
        drawn = np.random.default_rng([50, stream]).choice(len(rows), wanted, replace=False)
        parts.append(rows.iloc[np.sort(drawn)])
    asked = pd.concat(parts, ignore_index=True)
    draws = int(np.random.default_rng([seed, 51]).integers(2**31))
    written = generate(
        model, codec, list(asked["prompt"]), spec["max_tokens"], spec["temperature"], draws,
        turn if spec["cut"] else "", batch_tokens,
    )  # fmt: skip
    texts, ended = zip(*written, strict=True) if written else ((), ())
    return asked[["split", "example_id", "prompt"]].assign(response=texts, ended=ended)


def sample_probes(
    probes: pd.DataFrame,
    model: torch.nn.Module,
    codec: Codec,
    data: dict,
    probe: dict,
    batch_tokens: int,
    seed: int,
    name: str,
) -> pd.DataFrame:
    """The sampled response types for every probed prompt, as rows of the probe table.

    ``data`` is the data set's configuration (its self-rephrase prompt, its next turn, its leading
    spaces), ``made_by`` is ``name``, the base model's path in the study. What the probe set already
    holds is not sampled again.
    """
    chosen = probes[probes["response_type"] == "chosen"].reset_index(drop=True)
    start = house_start(chosen["response"])
    tables = []
    for number, kind in enumerate(SAMPLED_TYPES):
        given = probes.loc[probes["response_type"] == kind, "example_id"]
        base = chosen[~chosen["example_id"].isin(given)].reset_index(drop=True)
        if base.empty or kind not in probe["types"]:
            continue
        asks = list(base["prompt"])
        if kind == "chosen_selfr":
            request = data["self_rephrase"]
            asks = [request.replace("{response}", text.strip()) for text in base["response"]]
        draws = np.random.default_rng([seed, number]).integers(2**31)
        written = generate(
            model, codec, asks, probe["sample_tokens"], probe["temperature"], int(draws),
            data["next_turn"], batch_tokens,
        )  # fmt: skip
        texts = [text for text, _ in written]
        if data["confounds"]["leading_space"] == "corrected":
            texts = [with_start(text, start) for text in texts]
        table = base[["split", "example_id", "prompt"]].assign(
            response_type=kind, response=texts, made_by=name
        )
        tables.append(table[PROBE_COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else chosen[PROBE_COLUMNS].head(0)

"""Pairs that the policy itself writes while it is trained: self-play and on-policy runs.

Self-play (SPIN, Chen et al. 2024): y⁺ is the data's, y⁻ is sampled from the policy at the start of
each period, and that policy is the period's reference. On-policy (online DPO, Guo et al. 2024):
both are sampled, the study's judge ranks them, the reference stays the run's first model.
"""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from learning_dynamics.judge import Judge
from learning_dynamics.reference import token_logps
from learning_dynamics.rows import Rows, rows_of_update
from learning_dynamics.sampling import generate
from learning_dynamics.scoring import Engine, Tree
from learning_dynamics.tokens import Codec

LOG = logging.getLogger(__name__)
COLUMNS = ["period", "row", "chosen", "rejected", "unfinished", "reference", "tie"]


class PolicyRows:
    """The rows of a run whose responses are written anew at the start of each period.

    Args:
        pairs: the training pairs, in the order of ``rows``.
        rows: the data's own rows; those that a period does not train on keep what they had.
        writing: how responses are sampled: ``sample_tokens, temperature, next_turn``.
        judge: ranks two responses (on-policy runs only).
        frozen: an engine over the run's first model (on-policy runs only).
    """

    def __init__(
        self, pairs: pd.DataFrame, rows: Rows, codec: Codec, spec: dict, seed: int, writing: dict,
        judge: Judge | None = None, frozen: Engine | None = None,
    ) -> None:  # fmt: skip
        self._pairs, self._codec, self._spec, self._seed = pairs, codec, spec, seed
        self._writing, self._judge, self._frozen = writing, judge, frozen
        self.rows = replace(rows, trees=list(rows.trees), reference=[[]] * len(rows))
        self.every = spec["regenerate_every"] or -(-len(rows) // spec["batch_size"])
        self.written = pd.DataFrame(columns=COLUMNS)

    def at(self, update: int, engine: Engine, compute: dict) -> Rows:
        """The rows as of ``update`` (counted from 0); at the start of a period, newly written by
        the engine's model."""
        period = update // self.every
        if not (self.written["period"] == period).any():
            table = self._write(period, engine, compute)
            before = [] if self.written.empty else [self.written]
            self.written = pd.concat([*before, table], ignore_index=True)
            self._use(table)
        return self.rows

    def restore(self, written: pd.DataFrame) -> None:
        """Go on from a checkpoint's table of everything written so far."""
        self.written = written
        self._use(written)

    def _write(self, period: int, engine: Engine, compute: dict) -> pd.DataFrame:
        size = self._spec["batch_size"]
        updates = range(period * self.every, (period + 1) * self.every)
        buckets = self._spec["length_buckets"]
        numbers = sorted(
            {n for u in updates for n in rows_of_update(u, self.rows, size, self._seed, buckets)}
        )
        pairs = self._pairs.iloc[numbers]
        on_policy = self._spec["rows"] == "on-policy"
        draws = [self._sample(pairs, period, number, engine, compute) for number in
                 range(1 + on_policy)]  # fmt: skip
        rng = np.random.default_rng([self._seed, 31, period])
        records = []
        for index, (row, prompt, chosen) in enumerate(
            zip(numbers, pairs["prompt"], pairs["chosen"], strict=True)
        ):
            both = [draw[index] for draw in draws]
            verdict = 0.0
            if on_policy:
                verdict = self._judge(prompt, both[0][0], both[1][0])
                # A tie says nothing; a coin keeps it from teaching the order of sampling.
                if verdict < 0 or (verdict == 0 and rng.random() < 0.5):
                    both.reverse()
            else:
                both.insert(0, (chosen, True))
            records.append({
                "period": period, "row": row, "chosen": both[0][0], "rejected": both[1][0],
                "unfinished": [not finished for _, finished in both],
                "tie": bool(on_policy and verdict == 0),
            })  # fmt: skip
        trees = [self._tree(record) for record in records]
        scored = token_logps(self._frozen or engine, trees, compute)
        for record, values in zip(records, scored, strict=True):
            record["reference"] = values
        ties = sum(record["tie"] for record in records)
        LOG.info("period %d: wrote responses for %d rows (%d ties)", period, len(records), ties)
        return pd.DataFrame(records)[COLUMNS]

    def _sample(
        self, pairs: pd.DataFrame, period: int, number: int, engine: Engine, compute: dict
    ) -> list[tuple[str, bool]]:
        seed = np.random.default_rng([self._seed, 30, period, number]).integers(2**31)
        return generate(
            engine.model, self._codec, list(pairs["prompt"]), self._writing["sample_tokens"],
            self._writing["temperature"], int(seed), self._writing["next_turn"],
            compute["batch_tokens"],
        )  # fmt: skip

    def _tree(self, record: dict) -> Tree:
        prompt = self._pairs["prompt"].iloc[record["row"]]
        texts = [record["chosen"], record["rejected"]]
        tree = self._codec.row(prompt, texts, f"row {record['row']}")
        responses = []
        for tokens, unfinished in zip(tree.responses, record["unfinished"], strict=True):
            # What was cut by the length limit was not ended by the policy.
            open_end = unfinished and len(tokens) > 1 and tokens[-1] == self._codec.end_of_text
            responses.append(tokens[:-1] if open_end else tokens)
        return Tree(tree.prompt, responses)

    def _use(self, table: pd.DataFrame) -> None:
        for record in table.to_dict("records"):
            self.rows.trees[record["row"]] = self._tree(record)
            values = [np.asarray(value, dtype=float) for value in record["reference"]]
            self.rows.reference[record["row"]] = values

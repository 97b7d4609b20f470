"""A fixed set of trees, scored again and again along a run."""

import numpy as np
import torch

from learning_dynamics.scoring.engine import Engine
from learning_dynamics.scoring.metrics import METRICS, aggregate
from learning_dynamics.scoring.trees import Tree, batches_by_budget, split

BY_TOKEN = ["logp", "logp_argmax"]  # log-prob of the label, and of the token that is greedy now


class Scorer:
    """Scores a fixed set of trees again and again along a run.

    Batches hold at most ``batch_tokens`` tokens; its length is the number of batches.
    ``end_of_text`` is the token that closes a response; with ``count_end`` false its log-prob is
    reported apart (:func:`aggregate`). The greedy tokens of the first call are remembered: they are
    what ``logp_greedy0`` follows. With ``by_token`` true the values of :data:`BY_TOKEN` are kept
    token by token beside the sums.
    """

    def __init__(
        self,
        trees: list[Tree],
        batch_tokens: int,
        end_of_text: int | None = None,
        count_end: bool = True,
        by_token: bool = False,
    ) -> None:
        parts = [part for tree in trees for part in split(tree, batch_tokens)]
        groups = list(batches_by_budget(parts, batch_tokens))
        self._batches = [[parts[i] for i in group] for group in groups]
        first = np.cumsum([0, *(len(part.responses) for part in parts)])
        scored = [n for group in groups for i in group for n in range(first[i], first[i + 1])]
        self._order = np.argsort(np.array(scored, dtype=np.int64))
        self._end_of_text, self._count_end, self._by_token = end_of_text, count_end, by_token
        self.greedy0: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __call__(self, engine: Engine) -> dict[str, np.ndarray]:
        """Metrics per response, in the order of the trees and their responses; token by token,
        under ``tokens_<name>``, an array per response, end-of-text included."""
        names = [*METRICS, *(f"tokens_{name}" for name in BY_TOKEN if self._by_token)]
        tables: list[dict] = [dict.fromkeys(names, np.empty(0))]
        greedy = [np.empty(0, dtype=np.int64)]
        done = 0
        for trees in self._batches:
            responses = [response for tree in trees for response in tree.responses]
            lengths = [len(response) for response in responses]
            tokens = slice(done, done := done + sum(lengths))
            scored = score(engine, trees, None if self.greedy0 is None else self.greedy0[tokens])
            greedy.append(scored["greedy"])
            closed = np.array([response[-1] == self._end_of_text for response in responses])
            tables.append(aggregate(scored, lengths, closed, self._count_end))
            for name in BY_TOKEN if self._by_token else []:
                tables[-1][f"tokens_{name}"] = _by_response(scored[name], lengths)
        if self.greedy0 is None:
            self.greedy0 = np.concatenate(greedy)
        return {name: np.concatenate([t[name] for t in tables])[self._order] for name in names}


def _by_response(values: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Per-token values as one array per response: an object array, (responses,)."""
    out = np.empty(len(lengths), dtype=object)
    for place, part in enumerate(np.split(values, np.cumsum(lengths)[:-1])):
        out[place] = part  # one by one: numpy would stack parts of equal length
    return out


@torch.no_grad()
def score(
    engine: Engine, trees: list[Tree], greedy0: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Per-token metrics of some trees in one batch, float64 arrays of shape (N,); ``greedy``, the
    greedy tokens, int64."""
    batch = engine.pack(trees)
    known = None if greedy0 is None else torch.as_tensor(greedy0, device=batch.target.device)
    metrics = engine(batch, "metrics", known).metrics
    return {
        name: values.cpu().numpy().astype(np.int64 if name == "greedy" else np.float64)
        for name, values in metrics.items()
    }

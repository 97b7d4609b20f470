"""What a step Δθ does to the log-prob of every probed token: to first order, and really.

The first order is the directional derivative ∇_θ log π(token) · Δθ, which Proposition 1 writes as
−η A K G (equations 3 and 5; :mod:`learning_dynamics.influence.explicit`). Values are nats, per
response token in the order trees → responses → tokens, float64.

Everything is scored in the weights' own precision: under autocast to 16 bits the differences would
drown. Weights must be whole on this process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from learning_dynamics.errors import InputError
from learning_dynamics.influence.directions import Direction
from learning_dynamics.scoring import Batch, Engine, Tree, batches_by_budget, label_logp, split

PILOT = 0.05  # share of the probes' tokens on which a finite difference's step is tried
TRIES = 8


class Probes:
    """A fixed set of trees, packed once for one engine; batches of at most ``batch_tokens``.

    Attributes:
        trees: what is probed.
        lengths: tokens of every response, (responses,).
    """

    def __init__(self, engine: Engine, trees: Sequence[Tree], batch_tokens: int) -> None:
        self.trees = list(trees)
        self.lengths = np.array([len(r) for tree in trees for r in tree.responses])
        self._engine, self._budget = engine, batch_tokens
        parts = [part for tree in trees for part in split(tree, batch_tokens)]
        groups = list(batches_by_budget(parts, batch_tokens))
        self._batches = [engine.pack([parts[i] for i in group]) for group in groups]
        first = np.cumsum([0, *(sum(map(len, part.responses)) for part in parts)])
        scored = [np.arange(first[i], first[i + 1]) for group in groups for i in group]
        self._order = np.argsort(np.concatenate(scored))

    def __call__(self, score: Callable[[Batch], Tensor]) -> np.ndarray:
        """What ``score`` gives for every response token, (N,)."""
        values = [score(batch).double().cpu().numpy() for batch in self._batches]
        return np.concatenate(values)[self._order]

    def sums(self, values: np.ndarray, n_tokens: Sequence[int] | None = None) -> np.ndarray:
        """Sums over each response's tokens, (responses,); over its first ``n_tokens`` alone where
        given, as a trajectory's sums leave end-of-text out (``ProbeTrees.identity``)."""
        starts = np.cumsum(self.lengths) - self.lengths
        place = np.arange(len(values)) - np.repeat(starts, self.lengths)
        counted = place < np.repeat(self.lengths if n_tokens is None else n_tokens, self.lengths)
        return np.add.reduceat(np.where(counted, values, 0.0), starts)

    @cached_property
    def single(self) -> list[Tree]:
        """Every response after its prompt, alone."""
        return [Tree(tree.prompt, [r]) for tree in self.trees for r in tree.responses]

    @cached_property
    def pilot(self) -> "Probes":
        """A twentieth of the probes, at least one: single responses, drawn with a fixed seed."""
        room, drawn = PILOT * sum(map(len, self.trees)), []
        for number in np.random.default_rng(0).permutation(len(self.single)):
            room -= len(self.single[number])
            if drawn and room < 0:
                break
            drawn.append(self.single[number])
        return Probes(self._engine, drawn, self._budget)


def log_probs(engine: Engine, probes: Probes) -> np.ndarray:
    """log π of every probed token, (N,), nats: one pass."""
    with torch.no_grad():
        return probes(lambda batch: engine(batch).logp)


def forward_mode(engine: Engine, direction: Direction, probes: Probes) -> np.ndarray:
    """The directional derivative by forward-mode differentiation (a Jacobian-vector product),
    (N,): exact but for rounding. Attention is computed by the mathematical kernel, the only one
    that can be differentiated so. A batch's logits (N, V) and their tangents are in memory at once.
    """
    weights = _checked(engine, direction)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(weights[name].detach(), change)
            for name, change in direction.items()
        }

        def slope(batch: Batch) -> Tensor:
            logits = functional_call(engine, duals, (batch, "logits")).logits
            return forward_ad.unpack_dual(label_logp(logits, batch.target)).tangent

        return probes(slope)


def gradient_dots(engine: Engine, direction: Direction, probes: Probes) -> np.ndarray:
    """∇_θ log π(response) · Δθ of every response, (responses,): a gradient for each. Slow; the
    check of the others, through the passes that training uses."""
    weights = _checked(engine, direction)
    leaves = [weights[name] for name in direction]
    out = []
    for single in probes.single:
        pairs = zip(response_gradient(engine, single, leaves), direction.values(), strict=True)
        out.append(sum(float((g.double() * d.double()).sum()) for g, d in pairs))
    return np.array(out)


def response_gradient(engine: Engine, single: Tree, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """∇ log π of a tree's one response (a sum over its tokens) with respect to ``leaves``, of their
    shapes, through the passes that training uses."""
    logp = engine(engine.pack([single])).logp.sum()
    return torch.autograd.grad(logp, leaves, allow_unused=True, materialize_grads=True)


def finite_difference(
    engine: Engine, direction: Direction, probes: Probes, step: float | None = None
) -> np.ndarray:
    """The directional derivative by a central difference, (N,):
    [log π(θ + sΔθ) − log π(θ − sΔθ)] / 2s, two plain passes; weights are put back, bit for bit.

    Influence is linear in Δθ, so s is free: by default :func:`step_size`. An s found for one update
    serves the run's next ones, as long as ‖sΔθ‖ stays the same.
    """
    with line(engine, direction) as move:
        step = _step_size(engine, direction, probes, move) if step is None else step
        move(step)
        ahead = log_probs(engine, probes)
        move(-step)
        return (ahead - log_probs(engine, probes)) / (2 * step)


def step_size(engine: Engine, direction: Direction, probes: Probes) -> float:
    """The s of :func:`finite_difference`, as a multiple of Δθ.

    A token's log-prob carries a rounding error of about 10 u nats (u: the type's epsilon; logits
    are about 10). With h the change that sΔθ makes of it, the difference is off by about 10 u/h
    from rounding and h²/6 from the third order, relative to the slope: least at h = ∛(30 u) ≈ 3 ∛u,
    and flat around it. A relative step of the weights, ‖sΔθ‖ = ∛u ‖θ‖, would make such an h if Δθ
    were any direction; but gradients are the steepest ones, and move log-probs by nats where a
    random direction of their length moves them by hundredths. So s starts from the norms and is
    then set by what it does to a twentieth of the probes: the root mean square change of a token's
    log-prob is brought to 3 ∛u (fp32: 0.015 nats).

    Raises:
        InputError: when the direction moves nothing.
    """
    with line(engine, direction) as move:
        return _step_size(engine, direction, probes, move)


def measured(engine: Engine, direction: Direction, probes: Probes) -> np.ndarray:
    """The change itself, log π(θ + Δθ) − log π(θ), (N,): two passes; weights are put back."""
    before = log_probs(engine, probes)
    with line(engine, direction) as move:
        move(1.0)
        return log_probs(engine, probes) - before


def _step_size(
    engine: Engine, direction: Direction, probes: Probes, move: Callable[[float], None]
) -> float:
    weights = _checked(engine, direction)
    unit = torch.finfo(next(iter(direction.values())).dtype).eps
    ours, theirs = (
        float(sum((x.detach().double() ** 2).sum() for x in tensors)) ** 0.5
        for tensors in ((weights[name] for name in direction), direction.values())
    )
    if not 0 < theirs < float("inf"):
        raise InputError(f"direction: its norm is {theirs}; expected a finite one above 0")
    length, wanted = unit ** (1 / 3) * ours / theirs, 3 * unit ** (1 / 3)
    move(0.0)
    before = log_probs(engine, probes.pilot)
    for _ in range(TRIES):
        move(length)
        moved = float(np.sqrt(np.mean((log_probs(engine, probes.pilot) - before) ** 2)))
        factor = min(1e3, wanted / max(moved, 1e-30)) if np.isfinite(moved) else 1e-3
        length *= factor
        if 0.5 < factor < 2:
            break
    return length


def _checked(engine: Engine, direction: Direction) -> dict[str, torch.nn.Parameter]:
    """The engine's parameters by name.

    Raises:
        InputError: when the direction has a name that is none of them, or another shape.
    """
    weights = dict(engine.named_parameters())
    for name, change in direction.items():
        shape = tuple(weights[name].shape) if name in weights else "no such parameter"
        if shape != tuple(change.shape):
            raise InputError(
                f"direction: {name}: {tuple(change.shape)}, the model's: {shape}; expected names "
                "and shapes of the model's parameters"
            )
    return weights


@contextmanager
def line(engine: Engine, direction: Direction) -> Iterator[Callable[[float], None]]:
    """What sets the weights to θ + length · Δθ, from θ as it was; then θ again, bit for bit."""
    weights = _checked(engine, direction)
    start = {name: weights[name].detach().clone() for name in direction}

    @torch.no_grad()
    def move(length: float) -> None:
        for name, change in direction.items():
            torch.add(start[name], change, alpha=length, out=weights[name].data)

    try:
        yield move
    finally:
        with torch.no_grad():
            for name, value in start.items():
                weights[name].copy_(value)

"""DPO with something that keeps y⁺, or the rest of the distribution, from falling with y⁻.

Conventions as in :mod:`learning_dynamics.algorithms.losses`.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from learning_dynamics.algorithms import NonNegative, Positive, Share


def dpop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    penalty: NonNegative = 50.0,
) -> Tensor:
    """DPO-Positive: −log σ(β[m − λ max(0, −r₊)]), λ = penalty. Pal et al. 2024, eq. 3.

    c₊ = β(1 − a) while y⁺ is at least as likely as under the reference, (1 + λ) times that where it
    is less likely; c₋ = −β(1 − a), a being the σ above.
    """
    up, down = chosen - ref_chosen, rejected - ref_rejected
    return -logsigmoid(beta * (up - down - penalty * relu(-up)))


def dpo_shift(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    shift: Share = 0.75,
) -> Tensor:
    """DPO-Shift: the reward of y⁻ counts less, −log σ(β[r₊ − λr₋]), λ = shift, constant in time.
    Yang et al. 2025, section 3.

    c₊ = β(1 − a) and c₋ = −λβ(1 − a), a being the σ above; λ = 1 is DPO.
    """
    return -logsigmoid(beta * (chosen - ref_chosen - shift * (rejected - ref_rejected)))


def cal_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    weight: NonNegative = 1.0,
) -> Tensor:
    """Calibrated DPO: the log-ratios themselves are tied to a scale,
    −log σ(m) + w[(r₊ − 1/(2β))² + (r₋ + 1/(2β))²], w = weight. Xiao et al. 2024. The first term has
    no β. The authors' released code has w = 1/2.

    c₊ = 1 − a + w(1/β − 2r₊) and c₋ = −(1 − a) − w(1/β + 2r₋), with a = σ(m): y⁻ is pushed down
    until r₋ nears −1/(2β), and y⁺ pulled up until r₊ nears 1/(2β).
    """
    up, down, goal = chosen - ref_chosen, rejected - ref_rejected, 1 / (2 * beta)
    return -logsigmoid(up - down) + weight * ((up - goal) ** 2 + (down + goal) ** 2)


def gate_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    rejected_length: Tensor,
    *,
    beta: Positive = 0.1,
    alpha: Positive = 50.0,
    tau: Share = 0.1,
) -> Tensor:
    """Gradient-gated DPO, sequence form: DPO's value, but y⁻ is pushed only as far as a gate
    g = σ(α(p − τ)) is open, p = exp(log π(y⁻)/|y⁻|) being the geometric mean of its tokens'
    probabilities. Mouiche 2026, arXiv 2605.02626.

    c₊ = β(1 − a) and c₋ = −gβ(1 − a), with a = σ(βm): in a valley (p well below τ) the negative
    gradient is switched off. g has no gradient, so c₋ is no derivative of the loss.

    Known from the author's summary of the method: the sigmoid, its two forms (this and
    :func:`gate_dpo_tokens`), that it is detached and weighs examples. Ours: the values of α and τ.
    """
    gate = torch.sigmoid(alpha * ((rejected / rejected_length).exp() - tau))
    return _gated(chosen, rejected, ref_chosen, ref_rejected, gate, beta)


def gate_dpo_tokens(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    rejected_tokens: Tensor,
    rejected_mask: Tensor,
    *,
    beta: Positive = 0.1,
    alpha: Positive = 500.0,
    tau: Share = 0.01,
    quantile: Share = 0.1,
) -> Tensor:
    """Gradient-gated DPO, token form: as :func:`gate_dpo`, with p the quantile (by default the 10%
    one, "q10") of the probabilities of y⁻'s tokens, so that a few very unlikely tokens close the
    gate. Mouiche 2026, arXiv 2605.02626.

    c₊ = β(1 − a) and c₋ = −gβ(1 − a). One gate for the whole response, as the author describes it;
    interpolation between tokens, and the values of α and τ, are ours.
    """
    known = rejected_tokens.detach().masked_fill(~rejected_mask, torch.nan)
    gate = torch.sigmoid(alpha * (known.exp().nanquantile(quantile, dim=1) - tau))
    return _gated(chosen, rejected, ref_chosen, ref_rejected, gate, beta)


def _gated(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    gate: Tensor,
    beta: float,
) -> Tensor:
    """DPO's loss whose gradient through ``rejected`` is multiplied by ``gate``."""
    gate = gate.detach()
    partly = gate * rejected + (1 - gate) * rejected.detach()
    return -logsigmoid(beta * ((chosen - ref_chosen) - (partly - ref_rejected)))

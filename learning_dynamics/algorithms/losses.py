"""Losses of a preference pair: DPO and its kin.

Each returns one loss per row, shape ``(rows,)``. ``chosen`` and ``rejected`` are log π(y | x)
summed over the response's tokens (nats; no length normalisation, unless a loss is defined by it),
``ref_…`` the same under the reference. In the formulas r₊ and r₋ are the log-ratios
log π(y±) − log ref(y±), m = r₊ − r₋ is the margin, and c± = −∂L/∂log π(y±): c₊ > 0 pulls y⁺ up,
c₋ < 0 is the negative gradient on y⁻. Equations without a name are the paper's.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from learning_dynamics.algorithms import BelowHalf, NonNegative, Positive, Real


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
) -> Tensor:
    """Direct preference optimisation: −log σ(βm). Rafailov et al. 2023, eq. 7; eq. 6 and 12–15.

    c₊ = β(1 − a) and c₋ = −c₊, with a = σ(βm): both fade as the pair comes apart.
    """
    return -logsigmoid(beta * _margin(chosen, rejected, ref_chosen, ref_rejected))


def cdpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: BelowHalf = 0.1,
) -> Tensor:
    """Conservative DPO: a share ε (label_smoothing) of the labels is taken to be wrong,
    −(1 − ε) log σ(βm) − ε log σ(−βm). Mitchell 2023, "A note on DPO with noisy preferences".

    c₊ = β(1 − ε − a) and c₋ = −c₊: they change sign once a = σ(βm) exceeds 1 − ε.
    """
    logit = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    return -(1 - label_smoothing) * logsigmoid(logit) - label_smoothing * logsigmoid(-logit)


def rdpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    label_smoothing: BelowHalf = 0.1,
) -> Tensor:
    """Robust DPO: an unbiased estimate of DPO's loss when a share ε (label_smoothing) of the labels
    is flipped, [−(1 − ε) log σ(βm) + ε log σ(−βm)] / (1 − 2ε). Chowdhury et al. 2024, eq. 12.

    c₊ = β[1 − a + ε/(1 − 2ε)] and c₋ = −c₊: the push never fades, and the loss has no lower bound.
    """
    logit = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    clean = -(1 - label_smoothing) * logsigmoid(logit)
    return (clean + label_smoothing * logsigmoid(-logit)) / (1 - 2 * label_smoothing)


def ipo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
) -> Tensor:
    """Identity preference optimisation: (m − 1/(2β))², β being τ of Azar et al. 2023, eq. 17.

    c₊ = 2(1/(2β) − m) and c₋ = −c₊: a pull towards a margin of 1/(2β) nats, back again beyond it.
    This is the derivative itself; the paper's eq. 16–17 give the same direction with DPO's
    prefactor β(1 − a) and a replaced by m − 1/(2β), which is no derivative of the loss. Log-probs
    are summed, where TRL takes means over tokens.
    """
    return (_margin(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * beta)) ** 2


def slic(
    chosen: Tensor,
    rejected: Tensor,
    *,
    delta: NonNegative = 1.0,
    beta: NonNegative = 0.1,
) -> Tensor:
    """Sequence likelihood calibration: max(0, δ − log π(y⁺) + log π(y⁻)) − β log π(y_ref).
    Zhao et al. 2023 (SLiC-HF), eq. 2; eq. 18–20. The regulariser's response y_ref is y⁺.

    c₊ = 1 + β and c₋ = −1 while the pair is less than δ nats apart; then c₊ = β and c₋ = 0.
    """
    return relu(delta - chosen + rejected) - beta * chosen


def sppo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    eta: Positive = 10.0,
) -> Tensor:
    """Self-play preference optimisation with sure labels: (r₊ − η/2)² + (r₋ + η/2)².
    Wu et al. 2024, eq. 4.7 with win rates 1 and 0; eq. 21–22. η is the loss's own constant, 1/β of
    TRL's ``sppo_hard`` (Wu et al. use 1,000).

    c₊ = η − 2r₊ and c₋ = −(η + 2r₋). So it does push y⁻ down as long as r₋ > −η/2: the two terms of
    eq. 22 both have a plus sign, but the second factor r₋ + η/2 is positive at the start.
    """
    return (chosen - ref_chosen - eta / 2) ** 2 + (rejected - ref_rejected + eta / 2) ** 2


def spin(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
) -> Tensor:
    """Self-play finetuning: log(1 + exp(−βm)), y⁻ being the model's own answer and the reference
    the model that gave it. Chen et al. 2024, eq. 4.7 with the logistic loss; β is their λ.

    The function is DPO's, and so are c±; what differs are the rows (by default ``self-play``).
    """
    return dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta)


def online_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
) -> Tensor:
    """DPO on pairs that the model itself has just sampled and the judge has ranked. Guo et al.
    2024, "Direct language model alignment from online AI feedback".

    The function is DPO's, and so are c±; what differs are the rows (by default ``on-policy``).
    """
    return dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta)


def kto(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    mismatched: Tensor,
    ref_mismatched: Tensor,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation, a pair being one desirable and one undesirable example:
    λ_D [1 − σ(β(r₊ − z))] + λ_U [1 − σ(β(z − r₋))]. Ethayarajh et al. 2024, eq. 8.

    z = max(0, mean of log π/ref over ``mismatched``) is the reference point, one number per batch
    and without gradient: an estimate of KL(π ‖ ref) from other rows' responses. A row sums its two
    examples, where KTO averages over examples: half of this.

    c₊ = λ_D β s₊(1 − s₊) with s₊ = σ(β(r₊ − z)), c₋ = −λ_U β s₋(1 − s₋) with s₋ = σ(β(z − r₋)):
    both are largest near the reference point and fade on either side of it.
    """
    point = (mismatched - ref_mismatched).mean().clamp(min=0).detach()
    gain = torch.sigmoid(beta * (chosen - ref_chosen - point))
    loss = torch.sigmoid(beta * (point - rejected + ref_rejected))
    return desirable_weight * (1 - gain) + undesirable_weight * (1 - loss)


def simpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: Positive = 2.0,
    gamma: Real = 1.0,
) -> Tensor:
    """Simple preference optimisation, without a reference: −log σ(β log π(y⁺)/|y⁺| −
    β log π(y⁻)/|y⁻| − γ). Meng et al. 2024, eq. 6.

    c₊ = β(1 − a)/|y⁺| and c₋ = −β(1 − a)/|y⁻|, a being the σ above: per token the longer response
    weighs less.
    """
    gap = chosen / chosen_length - rejected / rejected_length
    return -logsigmoid(beta * gap - gamma)


def orpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    weight: NonNegative = 0.1,
) -> Tensor:
    """Odds-ratio preference optimisation, without a reference: SFT and a preference term in one,
    −log p₊ − λ log σ(log odds(p₊) − log odds(p₋)) with p± = exp(log π(y±)/|y±|), λ = weight and
    odds(p) = p/(1 − p). Hong et al. 2024, eq. 6–7.

    c₊ = [1 + λ(1 − a)/(1 − p₊)]/|y⁺| and c₋ = −λ(1 − a)/(1 − p₋)/|y⁻|, a being the σ above.
    """
    up, down = chosen / chosen_length, rejected / rejected_length
    return -up - weight * logsigmoid(_log_odds(up) - _log_odds(down))


def cpo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Positive = 0.1,
    weight: NonNegative = 1.0,
) -> Tensor:
    """Contrastive preference optimisation, without a reference: −log σ(β log π(y⁺)/π(y⁻)) −
    λ log π(y⁺), λ = weight. Xu et al. 2024, eq. 5 (λ = 1). The likelihood term is a sum over
    tokens, as written there; TRL takes its mean.

    c₊ = β(1 − a) + λ and c₋ = −β(1 − a), a being the σ above.
    """
    return -logsigmoid(beta * (chosen - rejected)) - weight * chosen


def _margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """r₊ − r₋, nats."""
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def _log_odds(logp: Tensor) -> Tensor:
    """log p/(1 − p); a p that rounds to 1 is taken to be the largest number below it."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))

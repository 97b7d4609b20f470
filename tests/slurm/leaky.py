"""A loss with a common fault: it keeps memory at every call and never gives it back."""

import torch
from torch.nn.functional import logsigmoid

KEPT: list[torch.Tensor] = []


def leaky_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    """DPO, 4 MiB per call."""
    KEPT.append(torch.ones(1 << 20))
    return -logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))

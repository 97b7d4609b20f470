"""Losses that make a run of the tests last, or fail; the numbers are DPO's."""

import time

import torch
from torch.nn.functional import logsigmoid

KEPT: list[torch.Tensor] = []


def slow_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    """A fifth of a second per update, on machines of any speed."""
    time.sleep(0.2)
    return -logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


def leaky_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
    """4 MiB per update, which are never given back."""
    KEPT.append(torch.ones(1 << 20))
    return -logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))

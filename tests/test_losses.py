"""The losses against closed forms, finite differences and the logits of a model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics.algorithms import ALGORITHMS
from learning_dynamics.algorithms.residuals import coefficients, derived, row_loss

PAIRS = [name for name, it in ALGORITHMS.items() if len(it.responses) == 2]
# Their gradient is by design not that of their value: the gate lets only a part of it through.
GATED = ["gate_dpo", "gate_dpo_tokens"]
BY_MARGIN = ["dpo", "cdpo", "rdpo", "ipo", "spin", "online_dpo"]
LOGP = st.floats(-300, -0.01)
ROW = st.tuples(LOGP, LOGP, LOGP, LOGP, st.floats(0.01, 2))


def spec_of(name, **changed):
    """The defaults of an algorithm's hyper-parameters, some of them changed."""
    return {key: it.default for key, it in ALGORITHMS[name].settings.items()} | changed


def one_row(up, down=None, ref_up=None, ref_down=None, lengths=(1, 1), shared=()):
    """Values of one row in float64, each response's log-prob spread evenly over its tokens."""
    sums = {"chosen": (up, ref_up), "rejected": (down, ref_down), "response": (up, ref_up)}
    values = {}
    for response, (policy, reference) in sums.items():
        size = lengths[response == "rejected"]
        if policy is not None:
            values[f"{response}_tokens"] = torch.full((1, size), policy / size, dtype=torch.float64)
            values[f"{response}_mask"] = torch.ones(1, size, dtype=torch.bool)
        if reference is not None:
            values[f"ref_{response}"] = torch.tensor([reference], dtype=torch.float64)
    for key, value in zip(("mismatched", "ref_mismatched"), shared, strict=False):
        values[key] = torch.tensor(value, dtype=torch.float64)
    return values


def loss_of(name, values, **changed):
    """The loss of the first row."""
    return row_loss(ALGORITHMS[name], derived(values), spec_of(name, **changed))[0].item()


def c_of(name, values, **changed):
    """c of the first row's first position, for each response."""
    found = coefficients(ALGORITHMS[name], values, spec_of(name, **changed))
    return [c[0, 0].item() for c in found.values()]


def random_batch(name, rows=5, seed=0):
    """Tokens, masks, reference and mismatched log-probs of rows of unequal lengths, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return -4 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    values = {"mismatched": 9 + draw(rows), "ref_mismatched": draw(rows)}
    for side, response in enumerate(ALGORITHMS[name].responses):
        sizes = torch.tensor([3, 1, 9, 4, 6])[:rows].roll(side)
        mask = torch.arange(9)[None] < sizes[:, None]
        values[f"{response}_mask"] = mask
        values[f"{response}_tokens"] = draw(rows, 9) * mask
        values[f"ref_{response}_tokens"] = draw(rows, 9) * mask
    return values


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def sigma(x):
    return 1 / (1 + np.exp(-x)) if x > -700 else 0.0


def soft(x):
    """log(1 + e^x)."""
    return np.logaddexp(0, x)


# -- closed forms ----------------------------------------------------------------------------


@given(ROW)
def test_one_response_in_closed_form(row):
    """SFT, gradient ascent and NPO: value and c."""
    logp, _, reference, _, beta = row
    values, ratio = one_row(logp, ref_up=reference), logp - reference
    assert (loss_of("sft", values), *c_of("sft", values)) == (close(-logp), 1)
    assert (loss_of("gradient_ascent", values), *c_of("gradient_ascent", values)) == (
        close(logp), -1,
    )  # fmt: skip
    assert loss_of("npo", values, beta=beta) == close(2 / beta * soft(beta * ratio))
    assert c_of("npo", values, beta=beta) == [close(-2 * sigma(beta * ratio))]


def closed_forms(up, down, ref_up, ref_down, beta):
    """Per algorithm: its settings, and value, c₊ and c₋ by the equations of its docstring."""
    r, s = up - ref_up, down - ref_down
    m = r - s
    a, e, w = sigma(beta * m), 0.2, 0.7
    yield "dpo", {"beta": beta}, soft(-beta * m), beta * (1 - a), -beta * (1 - a)
    smoothed = (1 - e) * soft(-beta * m) + e * soft(beta * m)
    c = beta * (1 - e - a)
    yield "cdpo", {"beta": beta, "label_smoothing": e}, smoothed, c, -c
    robust = ((1 - e) * soft(-beta * m) - e * soft(beta * m)) / (1 - 2 * e)
    c = beta * (1 - a + e / (1 - 2 * e))
    yield "rdpo", {"beta": beta, "label_smoothing": e}, robust, c, -c
    c = 2 * (1 / (2 * beta) - m)
    yield "ipo", {"beta": beta}, (m - 1 / (2 * beta)) ** 2, c, -c
    on = up - down < 5
    value = max(0, 5 - up + down) - beta * up
    yield "slic", {"delta": 5.0, "beta": beta}, value, on + beta, -float(on)
    eta = 1 / beta
    value = (r - eta / 2) ** 2 + (s + eta / 2) ** 2
    yield "sppo", {"eta": eta}, value, eta - 2 * r, -(eta + 2 * s)
    z = 2.5  # what mismatched - ref_mismatched of test_pairs_in_closed_form averages to
    gain, pain = sigma(beta * (r - z)), sigma(beta * (z - s))
    yield (
        "kto", {"beta": beta, "desirable_weight": 1.3, "undesirable_weight": w},
        1.3 * (1 - gain) + w * (1 - pain),
        1.3 * beta * gain * (1 - gain), -w * beta * pain * (1 - pain),
    )  # fmt: skip
    b = sigma(beta * (up - down))
    value = soft(-beta * (up - down)) - w * up
    yield "cpo", {"beta": beta, "weight": w}, value, beta * (1 - b) + w, -beta * (1 - b)
    gap = beta * (up / 3 - down / 5) - 0.5  # lengths of test_pairs_in_closed_form
    c = beta * (1 - sigma(gap))
    yield "simpo", {"beta": beta, "gamma": 0.5}, soft(-gap), c / 3, -c / 5
    p, q = math.exp(up / 3), math.exp(down / 5)
    odds = math.log(p / (1 - p)) - math.log(q / (1 - q)) if q > 1e-300 else np.nan
    c = 1 - sigma(odds)
    yield (
        "orpo", {"weight": w}, -up / 3 + w * soft(-odds),
        (1 + w * c / (1 - p)) / 3, -w * c / (1 - q) / 5,
    )  # fmt: skip
    x = beta * (m - 50 * max(0, -r))
    c = beta * (1 - sigma(x))
    yield "dpop", {"beta": beta, "penalty": 50.0}, soft(-x), c * (51 if r < 0 else 1), -c
    x = beta * (r - w * s)
    c = beta * (1 - sigma(x))
    yield "dpo_shift", {"beta": beta, "shift": w}, soft(-x), c, -w * c
    goal, c = 1 / (2 * beta), 1 - sigma(m)
    value = soft(-m) + w * ((r - goal) ** 2 + (s + goal) ** 2)
    yield (
        "cal_dpo", {"beta": beta, "weight": w}, value,
        c - 2 * w * (r - goal), -c - 2 * w * (s + goal),
    )  # fmt: skip
    gate = sigma(20 * (q - 0.3))
    c = beta * (1 - a)
    yield "gate_dpo", {"beta": beta, "alpha": 20.0, "tau": 0.3}, soft(-beta * m), c, -gate * c
    yield (
        "gate_dpo_tokens", {"beta": beta, "alpha": 20.0, "tau": 0.3, "quantile": 0.1},
        soft(-beta * m), c, -gate * c,
    )  # fmt: skip


@given(ROW)
def test_pairs_in_closed_form(row):
    """Value, c₊ and c₋ of every pair loss, at float64's precision."""
    values = one_row(*row[:4], lengths=(3, 5), shared=([3.0, 4.0], [1.0, 1.0]))
    covered = set()
    for name, spec, value, plus, minus in closed_forms(*row):
        assert loss_of(name, values, **spec) == pytest.approx(value, rel=1e-7, abs=1e-10), name
        found = c_of(name, values, **spec)
        assert found == [pytest.approx(c, rel=1e-7, abs=1e-10) for c in (plus, minus)], name
        covered.add(name)
    assert covered == set(PAIRS) - {"spin", "online_dpo"}  # DPO's function on other rows


@given(ROW)
def test_what_is_dpo_on_other_rows_or_at_a_limit(row):
    """SPIN, online DPO, and the members of the family at the hyper-parameter that makes them DPO;
    NPO with small β is gradient ascent."""
    beta = row[4]
    values = one_row(*row[:4], lengths=(3, 5))
    expected = loss_of("dpo", values, beta=beta), *c_of("dpo", values, beta=beta)
    same = {
        "spin": {}, "online_dpo": {}, "cdpo": {"label_smoothing": 0.0},
        "rdpo": {"label_smoothing": 0.0}, "dpop": {"penalty": 0.0}, "dpo_shift": {"shift": 1.0},
        "gate_dpo": {"alpha": 1e6, "tau": 0.0}, "gate_dpo_tokens": {"alpha": 1e6, "tau": 0.0},
    }  # fmt: skip
    for name, spec in same.items():
        found = loss_of(name, values, beta=beta, **spec), *c_of(name, values, beta=beta, **spec)
        if name in GATED and row[1] < -50:  # p itself underflows towards the closed end
            continue
        assert found == tuple(close(value) for value in expected), name
    small = {"beta": 1e-9}
    assert c_of("npo", values, **small)[0] == pytest.approx(-1, abs=1e-6)


def test_dpo_starts_at_log_two():
    """Policy and reference equal: margin 0, loss log 2, c₊ = β/2."""
    values = one_row(-20.0, -30.0, -20.0, -30.0)
    assert loss_of("dpo", values) == close(math.log(2))
    assert c_of("dpo", values) == [close(0.05), close(-0.05)]


def test_orpo_of_certain_responses():
    """A probability that rounds to 1 has finite odds and no NaN in its gradient."""
    values = {k: v.float() if v.is_floating_point() else v for k, v in one_row(0.0, -3e-9).items()}
    assert math.isfinite(loss_of("orpo", values))
    assert all(math.isfinite(c) for c in c_of("orpo", values))


# -- properties ------------------------------------------------------------------------------


@given(ROW, st.floats(-50, 50))
def test_translations(row, shift):
    """Losses of log-ratios do not see a shift of policy and reference together; losses of the
    margin alone do not see a shift of both responses of the policy."""
    up, down, ref_up, ref_down, beta = row
    plain = one_row(up, down, ref_up, ref_down, shared=([1.0], [0.5]))
    both = one_row(up + shift, down, ref_up + shift, ref_down, shared=([1.0], [0.5]))
    for name in ["npo", *BY_MARGIN, "sppo", "kto", "dpop", "dpo_shift", "cal_dpo"]:
        spec = {"beta": beta} if "beta" in ALGORITHMS[name].settings else {}
        known = pytest.approx(loss_of(name, plain, **spec), rel=1e-6, abs=1e-9)
        assert loss_of(name, both, **spec) == known, name
    moved = one_row(up + shift, down + shift, ref_up, ref_down)
    for name in [*BY_MARGIN, "simpo", "cpo"]:
        spec = {"beta": beta} | ({"weight": 0.0} if name == "cpo" else {})
        known = pytest.approx(loss_of(name, plain, **spec), rel=1e-6, abs=1e-9)
        assert loss_of(name, moved, **spec) == known, name


@given(ROW)
def test_signs(row):
    """DPO and all that see the margin alone: c₋ = −c₊. y⁺ is never pushed down, nor y⁻ pulled up,
    by DPO, robust DPO, SLiC, KTO, SimPO, ORPO, CPO, DPOP, DPO-Shift and the gated ones; a gate
    never adds to c₋. SPPO and Cal-DPO turn where their equations say."""
    up, down, ref_up, ref_down, beta = row
    values = one_row(up, down, ref_up, ref_down, lengths=(3, 5), shared=([3.0], [1.0]))
    for name in BY_MARGIN:
        plus, minus = c_of(name, values, beta=beta)
        assert minus == -plus, name
    one_way = ["dpo", "rdpo", "slic", "kto", "simpo", "orpo", "cpo", "dpop", "dpo_shift", *GATED]
    for name in one_way:
        plus, minus = c_of(name, values)
        assert plus >= 0 >= minus, name
    dpo = c_of("dpo", values)
    for name in GATED:
        plus, minus = c_of(name, values)
        assert plus == close(dpo[0]) and dpo[1] <= minus <= 0, name
    plus, minus = c_of("sppo", values, eta=4.0)
    assert (plus > 0) == (up - ref_up < 2) or abs(plus) < 1e-9
    assert (minus < 0) == (down - ref_down > -2) or abs(minus) < 1e-9


@given(ROW)
def test_swapping_the_labels(row):
    """Swapped labels turn DPO's and IPO's gradient round; a fair coin leaves DPO a pull together
    (c proportional to tanh of the margin), and at the start nothing at all."""
    up, down, ref_up, ref_down, beta = row
    for name in BY_MARGIN:
        as_given = c_of(name, one_row(up, down, ref_up, ref_down), beta=beta)
        swapped = c_of(name, one_row(down, up, ref_down, ref_up), beta=beta)
        at_start = c_of(name, one_row(up, down, up, down), beta=beta)
        turned = c_of(name, one_row(down, up, down, up), beta=beta)
        assert at_start == pytest.approx(turned), name
        if name in ("dpo", "spin", "online_dpo"):
            gap = beta * (up - ref_up - down + ref_down)
            mean = (as_given[0] + swapped[1]) / 2
            assert mean == pytest.approx(-beta / 2 * math.tanh(gap / 2), rel=1e-6, abs=1e-9)


def test_the_gate_closes_in_valleys():
    """Sequence form: closed where the mean token is unlikely. Token form: closed when more than a
    tenth of the tokens are, however likely the rest."""
    likely, valley = (
        one_row(-9.0, -1.0, -9.0, -1.0, (4, 10)),
        one_row(-9.0, -60.0, -9.0, -60.0, (4, 10)),
    )
    for name in GATED:
        assert c_of(name, likely)[1] == pytest.approx(-0.05, rel=1e-3)
        assert -0.05 * 0.03 < c_of(name, valley)[1] < 0
    for unlikely, weight in ((1, 1.0), (2, 0.0)):
        mixed = one_row(-9.0, -1.0, -9.0, -1.0, (4, 11))
        mixed["rejected_tokens"][0, :unlikely] = -12.0
        found = c_of("gate_dpo_tokens", mixed, beta=1e-9)[1] / 1e-9
        assert found == pytest.approx(-0.5 * weight, abs=0.01)


def test_kto_has_one_reference_point_per_batch():
    """The mean over all mismatched responses, not below 0, and without gradient."""
    it, spec, values = ALGORITHMS["kto"], spec_of("kto", beta=1.0), random_batch("kto")
    ratio = values["mismatched"] - values["ref_mismatched"]
    above = [values["ref_mismatched"] + shift for shift in (ratio, ratio.mean(), -5, 0)]
    losses = [row_loss(it, derived(values | {"mismatched": m}), spec) for m in above]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[2], losses[3])
    assert ratio.mean() > 0 and not torch.equal(losses[0], losses[2])
    leaves = values["chosen_tokens"].requires_grad_(True), values["mismatched"].requires_grad_(True)
    total = row_loss(it, derived(values), spec).sum()
    assert torch.autograd.grad(total, leaves, allow_unused=True)[1] is None


# -- coefficients ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in GATED])
def test_coefficients_are_finite_differences(name):
    """Central differences of each row's loss in every single token's log-prob."""
    it, spec, values = ALGORITHMS[name], spec_of(name), random_batch(name)
    for response, ours in coefficients(it, values, spec).items():
        key, step = f"{response}_tokens", 1e-5
        for position in range(9):
            shift = torch.zeros(9).double().index_fill(0, torch.tensor(position), step)
            ends = [
                row_loss(it, derived(values | {key: values[key] + sign * shift}), spec)
                for sign in (1, -1)
            ]
            inside = values[f"{response}_mask"][:, position]
            theirs = (ends[1] - ends[0]) / (2 * step) * inside
            torch.testing.assert_close(ours[:, position], theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_coefficients_keep_to_the_response(name):
    """One per position, constant along a response, 0 beyond it, finite; the inputs stay as they
    are, without gradient."""
    values = random_batch(name)
    before = {key: value.clone() for key, value in values.items()}
    found = coefficients(ALGORITHMS[name], values, spec_of(name))
    assert list(found) == list(ALGORITHMS[name].responses)
    for response, c in found.items():
        mask = values[f"{response}_mask"]
        assert c.shape == mask.shape and c.isfinite().all() and not c.requires_grad
        torch.testing.assert_close(c, c[:, :1] * mask)
    assert all(torch.equal(values[key], value) for key, value in before.items())
    assert not any(value.requires_grad for value in values.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_does_not_see_the_others(name):
    """Its loss and c are those of the row alone, cut to its own length; only KTO's reference point
    belongs to the batch."""
    it, spec, values = ALGORITHMS[name], spec_of(name), random_batch(name)
    values["rejected_tokens" if len(it.responses) == 2 else "response_tokens"][0, 0] = -8.0
    together, c = row_loss(it, derived(values), spec), coefficients(it, values, spec)
    for row in range(5):
        alone = {key: value for key, value in values.items() if "mismatched" in key}
        for response in it.responses:
            size = int(values[f"{response}_mask"][row].sum())
            for key in (f"{response}_tokens", f"ref_{response}_tokens", f"{response}_mask"):
                alone[key] = values[key][row : row + 1, :size]
        torch.testing.assert_close(row_loss(it, derived(alone), spec), together[row : row + 1])
        for response, own in coefficients(it, alone, spec).items():
            torch.testing.assert_close(own[0], c[response][row, : own.shape[1]])

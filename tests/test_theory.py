"""One softmax step: Lemma 1 and the two guarantees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import theory

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=30).map(np.array)
RATES = st.floats(-3, 3)


@given(LOGITS, st.data(), RATES)
def test_lemma_predicts_the_measured_ratio(logits, data, rate):
    """π after the step divided by π before it."""
    label = data.draw(st.integers(0, len(logits) - 1))
    after = theory.softmax(theory.step(logits, label, rate))
    measured = after / theory.softmax(logits)
    np.testing.assert_allclose(theory.lemma1_ratio(logits, label, rate), measured, rtol=1e-10)


@given(LOGITS, st.data(), RATES)
def test_lemma_equals_its_two_cases(logits, data, rate):
    """The lemma as it is printed: one case for the label, one for every other class."""
    y = data.draw(st.integers(0, len(logits) - 1))
    p, weights = theory.softmax(logits), np.exp(logits)
    alpha = []
    for i in range(len(p)):
        if i == y:
            beta = np.exp(-rate * (1 + p - p[y]))
            beta[y] = 1.0
        else:
            beta = np.exp(-rate * (p - p[i]))
            beta[y] = np.exp(-rate * (p[y] - p[i] - 1))
        alpha.append(weights.sum() / (beta * weights).sum())
    np.testing.assert_allclose(theory.lemma1_ratio(logits, y, rate), alpha, rtol=1e-10)


@given(LOGITS, st.data(), st.floats(-3, -1e-3))
def test_guarantees_of_a_negative_step(logits, data, rate):
    """The two guarantees: the label falls, the most likely other class rises."""
    label = data.draw(st.integers(0, len(logits) - 1))
    ratio = theory.lemma1_ratio(logits, label, rate)
    best = np.argmax(np.where(np.arange(len(logits)) == label, -np.inf, logits))
    assert ratio[label] < 1 - 1e-12
    assert ratio[best] > 1


@given(LOGITS, st.data(), st.floats(1e-3, 3))
def test_a_positive_step_raises_the_label(logits, data, rate):
    """Gradient descent on a convex loss along its own logits raises the label's probability."""
    label = data.draw(st.integers(0, len(logits) - 1))
    assert theory.lemma1_ratio(logits, label, rate)[label] > 1


@pytest.mark.parametrize("seed", range(5))
def test_regimes_are_what_their_titles_say(seed):
    """Titles against probabilities: rate's sign, flatness, a likely label, a label in a valley."""
    positive, flat, likely, valley = theory.regimes(seed=seed)
    assert positive.rate > 0 > max(flat.rate, likely.rate, valley.rate)
    assert theory.softmax(flat.logits).max() < 0.05
    assert 0.1 < theory.softmax(likely.logits)[likely.label] < 0.6
    assert theory.softmax(valley.logits)[valley.label] < 1e-3
    assert theory.softmax(valley.logits).max() < 0.6
    for regime in (positive, flat, likely, valley):
        assert theory.softmax(regime.logits).sum() == pytest.approx(1)

"""The registry: what is read from signatures, losses in users' files, and residuals of a model."""

import math
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from learning_dynamics.algorithms import (
    ALGORITHMS,
    RANGES,
    Setting,
    algorithm,
    known_arguments,
)
from learning_dynamics.algorithms.residuals import coefficients, derived, row_loss
from learning_dynamics.errors import InputError
from learning_dynamics.scoring import Engine, Tree, label_logp

ROOT = Path(__file__).resolve().parents[1]
DOCS = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A loss of single tokens: the second half of a response counts double.
WEIGHTED = """
import torch

def weighted(chosen_tokens, rejected, chosen_mask, chosen_length, *, beta=0.5):
    place = torch.arange(chosen_mask.shape[1])[None]
    weight = 1.0 + (2 * place >= chosen_length[:, None])
    return -(weight * chosen_tokens * chosen_mask).sum(1) + beta * rejected
"""
LOGITS = """
def by_logits(response_logits, response_labels, response_mask):
    return -(response_logits.log_softmax(-1).gather(-1, response_labels[..., None])[..., 0]
             * response_mask).sum(1)
"""


@pytest.fixture
def own(tmp_path):
    """Writes a user's file and returns the place of a function in it."""

    def write(text, name="my_loss"):
        path = tmp_path / "my_losses.py"
        path.write_text(text, encoding="utf-8")
        return f"{path}:{name}"

    return write


# -- the package's ---------------------------------------------------------------------------


def test_every_algorithm_of_the_issue_is_there():
    """Names, and what each reads."""
    reads = {name: (it.responses, it.reference, it.rows) for name, it in ALGORITHMS.items()}
    one, pair = ("response",), ("chosen", "rejected")
    assert reads.pop("sft") == (one, False, "pairs")
    assert reads.pop("gradient_ascent") == (one, False, "pairs")
    assert reads.pop("npo") == (one, True, "pairs")
    assert reads.pop("spin") == (pair, True, "self-play")
    assert reads.pop("online_dpo") == (pair, True, "on-policy")
    for name in ("slic", "simpo", "orpo", "cpo"):
        assert reads.pop(name) == (pair, False, "pairs")
    assert set(reads) == {"dpo", "cdpo", "rdpo", "ipo", "sppo", "kto", "dpop", "dpo_shift",
                          "cal_dpo", "gate_dpo", "gate_dpo_tokens"}  # fmt: skip
    assert set(reads.values()) == {(pair, True, "pairs")}
    assert [name for name, it in ALGORITHMS.items() if it.mismatched] == ["kto"]
    assert [name for name, it in ALGORITHMS.items() if it.tokens] == ["gate_dpo_tokens"]
    assert not any(it.logits or it.file for it in ALGORITHMS.values())


def test_settings_are_the_signature():
    """Default and range; the docstring is the source."""
    dpo = algorithm("dpo")
    assert dpo is ALGORITHMS["dpo"] and dpo.place.endswith("algorithms/losses.py:dpo")
    assert dpo.wants == ("chosen", "rejected", "ref_chosen", "ref_rejected")
    assert dpo.settings == {"beta": Setting(0.1, 0.0, math.inf, True, True)}
    assert "eq. 6" in dpo.source
    assert ALGORITHMS["cdpo"].settings["label_smoothing"] == Setting(0.1, 0.0, 0.5, False, True)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ("Real", [-1e9, 0, 3], [math.inf, math.nan]),
        ("Positive", [1e-9, 5], [0, -1, math.inf]),
        ("NonNegative", [0, 5.0], [-1e-9]),
        ("Share", [0, 0.5, 1], [-0.1, 1.1]),
        ("BelowOne", [0, 0.999], [1, -0.1]),
        ("BelowHalf", [0, 0.49], [0.5, 1]),
    ],
)
def test_ranges(kind, inside, outside):
    """What each annotation lets through; text and booleans are no numbers."""
    setting = Setting(0.0, *RANGES[kind])
    assert [setting.check(value) for value in inside] == [None] * len(inside)
    for value in [*outside, "5e-7", True, None, [1]]:
        assert setting.check(value).startswith(f"{value!r}: expected a number")
    assert "5.0e-7" in setting.check("5e-7")


def test_docs_table_is_the_registry():
    """Every algorithm has its row in docs/algorithms.md, with these hyper-parameters and ranges."""
    words = {"Real": "any", "Positive": "> 0", "NonNegative": "≥ 0", "Share": "0 to 1",
             "BelowOne": "0 to below 1", "BelowHalf": "0 to below 0.5"}  # fmt: skip
    ranges = {bounds: words[kind] for kind, bounds in RANGES.items()}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCS, re.MULTILINE))
    for name, it in ALGORITHMS.items():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", rows[name])]
        said = [
            f"`{key}` {s.default:g} ({ranges[s.low, s.high, s.open_low, s.open_high]})"
            for key, s in it.settings.items()
        ]
        assert cells[2] == ", ".join(said), name
        assert len(cells) == 3 + len(it.responses), name
    for argument in known_arguments("chosen"):
        if "rejected" not in argument:
            assert f"`{argument}`" in DOCS


def test_planning_needs_no_torch():
    """Snakemake reads the registry, users' files included, without torch."""
    code = (
        "import sys; from learning_dynamics.algorithms import algorithm;"
        "from learning_dynamics.study import Study; assert algorithm('dpo').reference;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- users' files ----------------------------------------------------------------------------


def test_a_file_is_read_and_not_run(own, tmp_path):
    """Everything but the loss itself comes without executing it; a docstring is not asked for."""
    place = own(
        "raise RuntimeError('executed')\n"
        "def my_loss(response, ref_response_tokens, *, slope: 'algorithms.Positive' = 2,"
        " shift=-1.5): return response\n"
    )
    it = algorithm(place)
    assert (it.name, it.place, it.file) == ("my_loss", place, str(tmp_path / "my_losses.py"))
    assert it.responses == ("response",) and it.reference and it.tokens and it.rows == "pairs"
    assert it.settings["slope"] == Setting(2, *RANGES["Positive"])
    assert it.settings["shift"] == Setting(-1.5, *RANGES["Real"])
    assert it.source == ""
    with pytest.raises(InputError, match=r"algorithm: '.*': cannot be loaded \(RuntimeError: exec"):
        row_loss(it, {"response": 0, "ref_response_tokens": 0}, {"slope": 2, "shift": 0})


def test_a_user_may_call_it_dpo(own):
    """It stays the user's, with the rows of any pair loss."""
    it = algorithm(own("def spin(chosen, rejected): return 3 * rejected - chosen", "spin"))
    assert it.file and it.rows == "pairs"
    values = {"chosen": torch.ones(2), "rejected": torch.ones(2)}
    assert row_loss(it, values, {}).tolist() == [2, 2]


WRONG = {
    "def other(chosen): pass": "no such function; expected one of the file's: other",
    "x = 1": "no such function; expected one of the file's: none",
    "def my_loss(chosen:": "not valid Python (line 1:",
    "a\0b": "not valid Python (",
    "def my_loss(): pass": "reads no response; expected response, or chosen and rejected",
    "def my_loss(mismatched): pass": "reads no response",
    "def my_loss(chosen, rejcted): pass": "argument 'rejcted': unknown; expected some of chosen,",
    "def my_loss(response, beta=0.1): pass": "argument 'beta': unknown; expected some of response,",
    "def my_loss(logits): pass": "argument 'logits': unknown; expected some of response, ref_resp",
    "def my_loss(chosen, response): pass": "argument 'chosen' beside those of one response",
    "def my_loss(response, mismatched): pass": "argument 'mismatched' beside those of one response",
    "def my_loss(*everything): pass": "argument 'everything' takes anything; expected named",
    "def my_loss(chosen, **rest): pass": "argument 'rest' takes anything; expected named",
    "def my_loss(chosen, *, beta): pass": "hyper-parameter 'beta': its default is none; expected",
    "def my_loss(chosen, *, b='a'): pass": "hyper-parameter 'b': its default is 'a'; expected a nu",
    "def my_loss(chosen, *, b=True): pass": "hyper-parameter 'b': its default is True; expected",
    "def my_loss(chosen, *, b=1/3): pass": "hyper-parameter 'b': its default is 1 / 3; expected",
    "def my_loss(chosen, *, b: Share = 2): pass": "hyper-parameter 'b': its default is 2: expected",
    "def my_loss(chosen, *, b: Small = 2): pass": "hyper-parameter 'b' is annotated 'Small'; expec",
    "def my_loss(chosen, *, b: 'x y' = 2): pass": "hyper-parameter 'b' is annotated 'x y'; expec",
    "def my_loss(chosen, *, β=2): pass": "'β': expected a name of plain letters",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_files(text, own):
    """One line with the place, the argument and what was expected, while planning."""
    place = own(text)
    with pytest.raises(InputError) as caught:
        algorithm(place)
    assert str(caught.value).startswith(f"{place!r}: {WRONG[text]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ppo", "row_loss", "_margin", "x.txt:f", "x.py:", "x.py:a b"])
def test_unknown_algorithms(name):
    """Neither a name of the table nor file.py:function."""
    with pytest.raises(InputError, match=r"unknown; expected one of sft, .*, or file\.py:function"):
        algorithm(name)


def test_files_that_cannot_be_read(tmp_path):
    """Missing, a folder, not UTF-8."""
    with pytest.raises(InputError, match=r"gone\.py:f': no such file; expected file\.py:function"):
        algorithm("gone.py:f")
    (tmp_path / "a.py").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        algorithm(f"{tmp_path}/a.py:f")
    (tmp_path / "b.py").write_bytes(b"x = '\xff'")
    with pytest.raises(InputError, match="not valid Python"):
        algorithm(f"{tmp_path}/b.py:f")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "chosen.mean()",
            r"returned shape \(\); expected one loss per row, a tensor of shape \(2,",
        ),
        ("chosen[:1]", r"returned shape \(1,\); expected"),
        ("3.0", "returned float; expected one loss per row"),
        ("1 / 0", r"fails \(ZeroDivisionError: division by zero\)"),
        ("chosen.detach()", "its loss has no gradient; expected one that depends on the policy's"),
    ],
)
def test_wrong_results(body, expected, own):
    """What a user's loss may not return."""
    it = algorithm(own(f"def my_loss(chosen, rejected): return {body}"))
    values = {"chosen": torch.ones(2, requires_grad=True), "rejected": torch.ones(2)}
    with pytest.raises(InputError, match=f"my_losses.py:my_loss': {expected}"):
        row_loss(it, values, {})


def test_losses_of_logits_have_no_coefficients(own):
    """They are refused by name; their value is what the logits say."""
    it = algorithm(own(LOGITS, "by_logits"))
    assert it.logits and it.responses == ("response",)
    values = {
        "response_logits": torch.zeros(1, 3, 4),
        "response_labels": torch.zeros(1, 3, dtype=torch.int64),
        "response_mask": torch.tensor([[True, True, False]]),
    }
    assert row_loss(it, values, {}).item() == pytest.approx(2 * math.log(4))
    with pytest.raises(InputError, match="reads logits; expected a loss of log-probs"):
        coefficients(it, values, {})


def test_a_token_weighted_loss_has_c_per_position(own):
    """Twice as large over the second half; a response it reads as a sum is constant."""
    it = algorithm(own(WEIGHTED, "weighted"))
    mask = torch.arange(4)[None] < torch.tensor([[4], [3]])
    tokens = -torch.rand(2, 4) * mask
    values = {"chosen_tokens": tokens, "chosen_mask": mask, "rejected_tokens": tokens,
              "rejected_mask": mask}  # fmt: skip
    c = coefficients(it, values, {"beta": 0.5})
    assert c["chosen"].tolist() == [[1, 1, 2, 2], [1, 1, 2, 0]]
    assert c["rejected"].tolist() == [[-0.5] * 4, [-0.5, -0.5, -0.5, 0]]


# -- through a model -------------------------------------------------------------------------


def padded(batch, logp, sides):
    """Log-probs per token of a batch as (rows, L) and their masks, by side."""
    owner = batch.owner.tolist()
    pieces = [logp[[i for i, o in enumerate(owner) if o == n]] for n in range(batch.responses)]
    out = []
    for side in range(sides):
        rows = pieces[side::sides]
        filled = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        sizes = torch.tensor([len(row) for row in rows])
        out.append((filled, torch.arange(filled.shape[1])[None] < sizes[:, None]))
    return out


@pytest.mark.parametrize("name", [*ALGORITHMS, "weighted"])
def test_gradient_at_the_logits_is_c_times_the_residual(name, tiny, own):
    """∂L/∂z = c (π − e) / rows at every position, autograd through loss and log-softmax against the
    formula, on responses of unequal lengths that share their prompt; and, carried back through the
    model, the same gradient in its weights."""
    it = algorithm(own(WEIGHTED, "weighted")) if name == "weighted" else ALGORITHMS[name]
    spec = {key: setting.default for key, setting in it.settings.items()}
    rng, sides = np.random.default_rng(0), len(it.responses)
    lengths = iter([3, 1, 9, 4, 2, 6])
    trees = [
        Tree([1, 2, 3], [rng.integers(90, size=next(lengths)).tolist() for _ in range(sides)])
        for _ in range(3)
    ]
    model = deepcopy(tiny[0])
    engine = Engine(model)
    assert engine.shares_prompts
    batch = engine.pack(trees)
    scored = engine(batch, want="logits").logits
    logits = scored.detach().double().requires_grad_(True)
    values = {"mismatched": torch.tensor([3.0, 1.0]), "ref_mismatched": torch.zeros(2)}
    parts = padded(batch, label_logp(logits, batch.target), sides)
    for response, (tokens, mask) in zip(it.responses, parts, strict=True):
        shift = -4.0 if response == "rejected" else 1.0
        values[f"{response}_tokens"], values[f"{response}_mask"] = tokens, mask
        values[f"ref_{response}_tokens"] = (tokens.detach() - shift / 4) * mask
    loss = row_loss(it, derived(values), spec).mean()
    gradient = torch.autograd.grad(loss, logits)[0]

    c = coefficients(it, values, spec)
    flat = torch.zeros(len(batch.target)).double()
    for side, response in enumerate(it.responses):
        here = batch.owner % sides == side
        flat[here] = c[response][values[f"{response}_mask"]]
    labels = torch.nn.functional.one_hot(batch.target, logits.shape[1])
    formula = flat[:, None] * (logits.detach().softmax(-1) - labels) / len(trees)
    torch.testing.assert_close(gradient, formula, rtol=1e-9, atol=1e-12)
    assert gradient.abs().max() > 1e-6

    weights = list(model.parameters())
    values |= {
        f"{r}_tokens": tokens
        for r, (tokens, _) in zip(
            it.responses, padded(batch, label_logp(scored, batch.target), sides), strict=True
        )
    }
    loss = row_loss(it, derived(values), spec).mean()
    ours = torch.autograd.grad(loss, weights, retain_graph=True)
    carried = torch.autograd.grad(scored, weights, formula.float())
    for one, two in zip(ours, carried, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5 * float(two.abs().max() + 1e-9))


# -- the example of the docs -----------------------------------------------------------------


def docs_example(folder):
    """The place of the ten-line example, written out as it stands in README.md."""
    text = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def " in b)
    (folder / "my_losses.py").write_text(text, encoding="utf-8")
    assert len(text.strip().splitlines()) <= 10
    assert '"my_losses.py:mean_dpo"' in README
    return f"{folder}/my_losses.py:mean_dpo"


def test_the_example_of_the_docs(tmp_path):
    """Read, run, and right: DPO of means."""
    it = algorithm(docs_example(tmp_path))
    assert it.settings["beta"].default == 2.0 and it.reference
    values = {
        "chosen": torch.tensor([-6.0]), "ref_chosen": torch.tensor([-9.0]),
        "rejected": torch.tensor([-8.0]), "ref_rejected": torch.tensor([-4.0]),
        "chosen_length": torch.tensor([3]), "rejected_length": torch.tensor([2]),
    }  # fmt: skip
    found = row_loss(it, values, {"beta": 2.0}).item()
    assert found == pytest.approx(math.log(1 + math.exp(-2 * (1 + 2))))

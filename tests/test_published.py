"""Published result files: every order of keys, restarts, bad files, and the five real runs."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_dynamics import dynamics, published, trajectory
from learning_dynamics.errors import InputError
from learning_dynamics.published import KEY_ORDERS, TYPES, attempts, import_run, read_metrics

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT.parent / "shared" / "data" / "published-runs"
V = 50304
KINDS = dict(zip(["13", "17", "28", "17 chosen only", "28 corrected"], KEY_ORDERS, strict=True))


def values_for(keys, evaluations=3, probes=500, seed=0):
    """Plausible values, shape (evaluations, metrics, probes): the mislabelled argmax belongs to
    shuffled words, where the energy is high."""
    rng = np.random.default_rng(seed)
    corrected = keys[0] == "chosen_A_o"
    out = np.empty((evaluations, len(keys), probes))
    for index, key in enumerate(keys):
        noise = rng.random((evaluations, probes)) * 0.01
        if key.endswith("A_o"):
            out[:, index] = np.sqrt(V * (0.3 + noise) ** 2 + V - 2)
        elif key in ("energy", "p_e"):
            out[:, index] = (0.69 if corrected else 0.95) + noise
        else:
            out[:, index] = {"argmax_prob_logits": -60, "except_argmax_prob_logits": -15}.get(
                key, -150 - index
            ) + 100 * noise + np.arange(evaluations)[:, None]  # fmt: skip
    return out


def write_run(folder, keys, values, npy=None):
    """A run's files; ``values`` are means (evaluations, metrics)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in values.tolist()]
    (folder / "prob_train_metrics.json").write_text("".join(lines), encoding="utf-8")
    if npy is not None:
        np.save(folder / "logp_npy_all_chosen.npy", npy)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_each_order_of_keys(kind, tmp_path, caplog):
    keys = KINDS[kind]
    values = values_for(keys)
    means = values.mean(axis=2)
    table = import_run(write_run(tmp_path / "mine", keys, means), 100, 4)
    assert list(table.columns) == published.SCHEMA.names
    assert len(table) == 3 * 12 and table["example_id"].isna().all()
    assert (table["n_examples"] == 500).all() and (table["attempt"] == 1).all()
    assert table["step"].tolist() == [s for s in (0, 25, 50) for _ in TYPES]
    assert table["examples"].tolist() == [s for s in (0, 100, 200) for _ in TYPES]
    assert table["epoch"].isna().all() and table["n_tokens"].isna().all()
    assert table["prob_norm"].isna().all()  # a mean of roots has no inverse
    along = "chosen" if "chosen only" in kind or "corrected" in kind else "random_nonhum"
    rows = table.set_index(["response_type", "evaluation"])
    for column, key in [
        ("logp_argmax", "argmax_prob_logits"),
        ("residual_norm", "p_e"),
        ("logp_complement", "except_argmax_prob_logits"),
        ("energy", "energy"),
    ]:
        if key in keys:
            found = rows[column].dropna()
            assert found.index.unique("response_type").tolist() == [along]
            np.testing.assert_array_equal(found, means[:, keys.index(key)])
        else:
            assert rows[column].isna().all()
    for response in TYPES:
        for column, name in [
            ("logp", f"logps_eval_prob_train/{response}"),
            ("A_o", f"{response}_A_o"),
        ]:
            if name in keys:
                found = rows.loc[response, column]
                np.testing.assert_array_equal(found, means[:, keys.index(name)])
            elif (response, column, kind) != ("random_nonhum", "A_o", "17"):
                assert rows.loc[response, column].isna().all()
    if kind == "17":  # the single A_o was overwritten once per type, too
        found = rows.loc["random_nonhum", "A_o"]
        np.testing.assert_array_equal(found, means[:, keys.index("A_o")])
    assert not caplog.records


def test_the_two_orders_of_28_keys_differ_only_in_order():
    assert KINDS["28"] != KINDS["28 corrected"]
    assert set(KINDS["28"]) == set(KINDS["28 corrected"])
    assert [len(keys) for keys in KEY_ORDERS] == [13, 17, 28, 17, 28]


@pytest.mark.parametrize(("kind", "energy"), [("28", 0.69), ("28 corrected", 0.95)])
def test_energy_that_contradicts_the_label_warns(kind, energy, tmp_path, caplog):
    keys = KINDS[kind]
    means = values_for(keys).mean(axis=2)
    means[:, keys.index("energy")] = energy
    import_run(write_run(tmp_path / "mine", keys, means))
    assert "energy starts at" in caplog.text


def test_argmax_below_the_label_warns(tmp_path, caplog):
    keys = KINDS["28 corrected"]
    means = values_for(keys).mean(axis=2)
    means[2, keys.index("argmax_prob_logits")] = -200.0
    import_run(write_run(tmp_path / "mine", keys, means))
    assert "cannot be along chosen" in caplog.text


def test_known_run_counts_and_unknown_run_does_not(tmp_path):
    keys = KINDS["17"]
    means = values_for(keys).mean(axis=2)
    known = import_run(write_run(tmp_path / "prob_pythia410m_dpo", keys, means))
    assert known["step"].max() == 50 and known["examples"].max() == 200
    assert known["epoch"].max() == pytest.approx(200 / 500)
    unknown = import_run(write_run(tmp_path / "mine", keys, means))
    assert unknown[["step", "examples", "epoch"]].isna().all().all()
    assert unknown["evaluation"].max() == 2
    half = import_run(tmp_path / "mine", examples_per_evaluation=100)
    assert half["step"].isna().all() and half["examples"].max() == 200
    for every, batch in [(100, 3), (0, 4), (100, -4), (100, 0)]:
        with pytest.raises(InputError, match="positive multiple"):
            import_run(tmp_path / "mine", every, batch)


def test_per_probe_rows(tmp_path):
    keys = KINDS["17"]
    values = values_for(keys)
    values[1, keys.index("except_argmax_prob_logits"), :2] = [np.nan, -np.inf]
    folder = write_run(tmp_path / "prob_pythia410m_dpo", keys, values.mean(axis=2), values)
    table = import_run(folder)
    assert len(table) == 3 * 500 * 12 and (table["n_examples"] == 1).all()
    assert table["example_id"].iloc[[0, 11, 12, -1]].tolist() == [
        "row-00000", "row-00000", "row-00001", "row-00499"
    ]  # fmt: skip
    found = table[(table["response_type"] == "random_nonhum") & (table["evaluation"] == 1)]
    np.testing.assert_array_equal(found["logp"], values[1, -1])
    assert np.isnan(found["logp_complement"].iloc[0]) and found["logp_complement"].iloc[1] < -1e300
    norm = found["prob_norm"].to_numpy()
    np.testing.assert_allclose(np.sqrt(V * norm**2 + V - 2), found["A_o"], rtol=1e-12)
    assert norm.min() >= 0.3 and norm.max() <= 0.31
    assert table.loc[table["response_type"] != "random_nonhum", "prob_norm"].isna().all()


def test_npy_must_cover_the_attempt(tmp_path, caplog):
    keys = KINDS["17"]
    values = values_for(keys)
    folder = write_run(tmp_path / "mine", keys, values.mean(axis=2), values[:2])
    assert (import_run(folder)["n_examples"] == 500).all()
    assert "2 of 3 evaluations: means imported" in caplog.text
    # The other way round: a job wrote on beside its successor, as in one published file.
    folder = write_run(tmp_path / "mine", keys, values[:2].mean(axis=2), values)
    assert import_run(folder)["evaluation"].max() == 1


def test_npy_of_another_run_is_refused(tmp_path):
    keys = KINDS["13"]
    values = values_for(keys)
    other = values.copy()
    other[1, 3] += 1e-3
    folder = write_run(tmp_path / "mine", keys, values.mean(axis=2), other)
    with pytest.raises(InputError, match="evaluation 1: logps_eval_prob_train/chosen_gptsemantic"):
        import_run(folder)
    other = values.copy()
    other[2, 0, 7] = np.nan
    np.save(folder / "logp_npy_all_chosen.npy", other)
    with pytest.raises(InputError, match=r"evaluation 2: .* has mean nan"):
        import_run(folder)


def test_bad_npy_is_one_clear_error(tmp_path):
    keys, path = KINDS["13"], tmp_path / "x.npy"

    def refused(match):
        with pytest.raises(InputError, match=match) as error:
            published.read_npy(path, keys)
        assert "expected float64 of shape (evaluations, 13, 500)" in str(error.value)

    np.save(path, np.zeros((2, 13, 500)))
    whole = path.read_bytes()
    assert published.read_npy(path, keys).shape == (2, 13, 500)
    for size in (0, 5, 60, 1000, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("not a whole npy file")
    # numpy itself lets a SyntaxError or a TypeError out of a broken header
    for broken in (whole.replace(b"'descr'", b"'d,scr-"), whole.replace(b"'descr'", b"b'desc'")):
        path.write_bytes(broken)
        refused("not a whole npy file")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("Python objects")
    for shape in [(13, 500), (2, 12, 500), (2, 13, 499), (0,)]:
        np.save(path, np.zeros(shape))
        refused("of shape" if shape != (0,) else "float64")
    np.save(path, np.zeros((2, 13, 500), dtype=int))
    refused("holds int64")


def lines_of(keys, evaluations=3):
    means = values_for(keys, evaluations).mean(axis=2)
    return [json.dumps(dict(zip(keys, row, strict=True))) for row in means.tolist()]


def edited(line, change):
    row = json.loads(line)
    change(row)
    return json.dumps(row)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (2, lambda line: line[:200], "line 2: not JSON .* is the file truncated"),
        (3, lambda line: line[:-1], "line 3: not JSON"),
        (2, lambda line: line + line, "line 2: not JSON"),
        (1, lambda line: "[1, 2]", r"line 1: '\[1.0, 2.0\]'; expected a JSON object"),
        (2, lambda line: edited(line, lambda row: row.pop("energy")),
         "line 2: field 'energy' is missing"),
        (1, lambda line: edited(line, lambda row: row.pop("energy")),
         "line 1: field 'energy' is missing"),
        (2, lambda line: edited(line, lambda row: row.update(loss=1)),
         "line 2: unknown field 'loss'"),
        (1, lambda line: json.dumps({"loss": 1}), "line 1: unknown field 'loss'"),
        (2, lambda line: json.dumps(dict(reversed(json.loads(line).items()))),
         "line 2: fields in the order"),
        (3, lambda line: edited(line, lambda row: row.update(p_e="x")),
         "line 3: field 'p_e' is 'x'; expected a number"),
        (3, lambda line: edited(line, lambda row: row.update(p_e=True)), "'p_e' is True"),
        (3, lambda line: edited(line, lambda row: row.update(p_e=None)), "'p_e' is None"),
        (3, lambda line: edited(line, lambda row: row.update(p_e=[1])), r"'p_e' is \[1.0\]"),
        (3, lambda line: line.replace('"p_e": ', '"p_e": Infinity, "x": '), "unknown field 'x'"),
        (3, lambda line: edited(line, lambda row: row.update(p_e=np.inf)), "'p_e' is inf"),
    ],
)  # fmt: skip
def test_bad_line_is_named(number, change, message, tmp_path):
    lines = lines_of(KINDS["17"])
    lines[number - 1] = change(lines[number - 1])
    path = tmp_path / "prob_train_metrics.json"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        import_run(tmp_path)
    assert str(path) in str(error.value)


def test_missing_empty_and_binary_files(tmp_path):
    path = tmp_path / "prob_train_metrics.json"
    with pytest.raises(InputError, match="no such file"):
        read_metrics(path)
    for text in ("", "\n \n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="empty; expected"):
            read_metrics(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8 at byte 7"):
        read_metrics(path)


def test_nan_and_blank_lines_and_whole_numbers_are_read(tmp_path):
    lines = lines_of(KINDS["17"])
    change = {"except_argmax_prob_logits": np.nan, "energy": -np.inf, "p_e": 1}
    lines[1] = edited(lines[1], lambda row: row.update(change))
    path = tmp_path / "prob_train_metrics.json"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    rows = read_metrics(path)
    assert len(rows) == 3 and list(rows[1]) == KINDS["17"]
    assert np.isnan(rows[1]["except_argmax_prob_logits"]) and rows[1]["energy"] == -np.inf
    assert rows[1]["p_e"] == 1.0
    table = import_run(tmp_path)
    assert table["logp_complement"].notna().sum() == 2


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**31))
def test_attempts_are_found(lengths, seed):
    rng = np.random.default_rng(seed)
    start = np.array([-150.0, -60.0, np.nan, 0.7])
    pieces = []
    for length in lengths:
        piece = start + rng.uniform(0.002, 50, (length, 4)) * rng.choice([-1, 1], (length, 4))
        piece[0] = start + rng.uniform(-4e-4, 4e-4, 4) * bool(pieces)
        pieces.append(piece)
    whole = np.concatenate(pieces)
    whole[1:, 0][rng.random(len(whole) - 1) < 0.2] = np.nan  # the other columns still tell
    found = attempts(whole)
    assert [piece.stop - piece.start for piece in found] == lengths
    assert found[0].start == 0 and found[-1].stop == len(whole)


@given(st.integers(1, 5))
def test_evaluations_without_a_finite_value_are_no_restarts(length):
    assert attempts(np.full((length, 3), np.nan)) == [slice(0, length)]


@pytest.mark.parametrize(
    ("lengths", "kept"), [([1, 1, 1, 1], 1), ([1, 3], 2), ([3, 2], 1), ([2, 3, 3], 2)]
)
def test_the_longest_attempt_is_kept(lengths, kept, tmp_path, caplog):
    keys = KINDS["28 corrected"]
    pieces = [
        values_for(keys, length, seed=number).mean(axis=2) for number, length in enumerate(lengths)
    ]
    for piece in pieces:
        piece[0] = pieces[0][0]
    folder = write_run(tmp_path / "mine", keys, np.concatenate(pieces))
    table = import_run(folder, 100, 2)
    assert (table["attempt"] == kept).all()
    chosen = table[table["response_type"] == "chosen"]
    np.testing.assert_array_equal(chosen["logp"], pieces[kept - 1][:, 1])
    assert chosen["step"].tolist() == [50 * n for n in range(lengths[kept - 1])]
    aside = sum(lengths) - lengths[kept - 1]
    assert f"attempt {kept} of {len(lengths)} kept, {aside} of {sum(lengths)} lines" in caplog.text


def test_a_known_name_with_another_vocabulary_is_refused(tmp_path):
    keys = KINDS["28 corrected"]  # these values are of a model with 50304 logits
    folder = write_run(tmp_path / "base_sft_qwen18_ep8", keys, values_for(keys).mean(axis=2))
    with pytest.raises(InputError, match="151936 logits allow"):
        import_run(folder)


def test_table_of_known_runs():
    fields = ["model", "logits", "algorithm", "data", "examples_per_evaluation", "batch_size",
              "evaluations", "argmax_along", "note"]  # fmt: skip
    runs = published.known_runs()
    assert len(runs) == 20
    for name, run in runs.items():
        claimed = [field for field in run if field in ("group", "role")]
        assert claimed in ([], ["group", "role"]), name
        assert [field for field in run if field not in claimed] == fields, name
        assert run["logits"] == (
            None if run["model"] is None else 151936 if "Qwen" in run["model"] else V
        )
        assert run["algorithm"] in ("sft", "dpo", "sparse_dpo", None)
        assert run["data"] in (*published.DATA_ROWS, None)
        assert run["argmax_along"] in published.ALONG
        assert run["evaluations"] > 0 and run["note"]
        if run["examples_per_evaluation"] and run["batch_size"]:
            assert run["examples_per_evaluation"] % run["batch_size"] == 0


def test_scripts(tmp_path):
    keys = KINDS["17"]
    means = values_for(keys).mean(axis=2)
    folder, out = write_run(tmp_path / "mine", keys, means), tmp_path / "t.parquet"

    def script(name, *args):
        command = [sys.executable, str(ROOT / "workflow_scripts" / name), *map(str, args)]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    done = script("import_published.py", "--folder", folder, "--out", out,
                  "--examples-per-evaluation", 100, "--batch-size", 4)  # fmt: skip
    assert done.returncode == 0, done.stderr
    schema = pq.read_schema(out)
    assert schema.equals(published.SCHEMA)
    assert set(trajectory.SCHEMA.names) < set(schema.names)
    done = script("make_published.py", "--runs", f"mine={out}", "--out", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == 13
    row = table[table["quantity"] == "argmax along y_rnd"].iloc[0]
    assert row["response_type"] == "random_nonhum" and row["evaluations"] == 3
    assert row["first"] == row["worst"] == pytest.approx(means[0, 1], abs=0.005)
    assert row["last"] == row["best"] and (row["worst_at"], row["best_at"]) == (0, 2)
    done = script("make_published.py", "--runs", f"a={out}", f"a={out}", "--out", tmp_path / "q")
    assert done.returncode == 2 and not (tmp_path / "q").exists()
    assert done.stderr.startswith("error: --runs: ") and done.stderr.count("\n") == 1


# The real files -----------------------------------------------------------------------------------

RND, CHOSEN = "argmax along y_rnd", "argmax along y⁺"
EXTEND, PROBE_DPO = "extend_sft_qwen18_observe", "prob_pythia410m_dpo"
PROBE_1B = "verifyargmax_pythia1b_dpo_ep10_chosen"
SFT, DPO = "pythia410_baseline_sft_verify_argmax_bug", "pythia410m_baseline_dpo_checkbug_5e7"
ARGMAX = {EXTEND: RND, PROBE_DPO: RND, PROBE_1B: RND, SFT: CHOSEN, DPO: CHOSEN}
EVALUATIONS = {EXTEND: 40, PROBE_DPO: 50, PROBE_1B: 50, SFT: 40, DPO: 137}
# As printed in our notes on the paper (sections 6.1 to 6.4): first, first -> last, or
# first -> best@its evaluation -> last.
PRINTED = {
    EXTEND: """chosen -122.8 -> -79.2; rejected -97.1 -> -60.6; irr_train -164.5 -> -141.6;
        argmax -128.8 -> -102.9; chosen -122.78; rejected -97.14; irr_train -164.47;
        argmax -128.76""",
    PROBE_DPO: """chosen -152.0 -> -140.2@25 -> -146.3; rejected -121.4 -> -197.6;
        chosen_gptsemantic -155.9 -> -187.9; reject_gptsemantic -135.3 -> -186.2;
        chosen_gptformat -136.0 -> -167.7; reject_gptformat -121.8 -> -164.9;
        irr_train -193.4 -> -223.0; irr_test -161.2 -> -210.1; irr_hum -187.9 -> -222.6;
        random_permute -401.4 -> -491.5; random_nonhum -361.8 -> -440.9;
        chosen_initial -151.7 -> -197.5; argmax -113.5 -> -72.3; argmax -113.54; chosen -151.98;
        chosen_initial -151.66; chosen_gptsemantic -155.89; chosen_gptformat -136.01;
        rejected -121.35; reject_gptsemantic -135.30; reject_gptformat -121.82; irr_train -193.41;
        irr_test -161.16; irr_hum -187.90; random_permute -401.35; random_nonhum -361.76""",
    PROBE_1B: """chosen -132.3 -> -124.6@6 -> -139.0; rejected -103.7 -> -291.8;
        chosen_gptsemantic -138.1 -> -205.3; reject_gptsemantic -119.2 -> -236.9;
        irr_train -173.6 -> -252.1; argmax -110.3 -> -82.5; chosen -132.25; rejected -103.65;
        irr_train -173.60""",
    SFT: """chosen -152.0 -> -92.4; chosen -151.98 -> -92.42; argmax -61.6 -> -44.5;
        argmax -61.56""",
    DPO: "chosen -152.0 -> -147.9@40 -> -156.2; argmax -61.6 -> -41.2",
}
# Rounded twice in the notes: the files hold -401.3497 and -103.6467.
ROUNDED_TWICE = {(PROBE_DPO, "-401.4"): "-401.3", (PROBE_1B, "-103.7"): "-103.6"}


@pytest.fixture(scope="module")
def real():
    """The five published runs, imported once: trajectories by run."""
    if not RUNS.is_dir():
        pytest.skip(f"published runs are not here: {RUNS}")
    return {name: import_run(RUNS / name) for name in ARGMAX}


@pytest.fixture(scope="module")
def summary(real):
    return published.summary(real).set_index(["run", "response_type", "quantity"])


def test_real_runs_import_without_warnings(real, caplog):
    with caplog.at_level(logging.WARNING):
        for name in (EXTEND, DPO):
            import_run(RUNS / name)
    assert not caplog.records
    for name, table in real.items():
        assert table["evaluation"].max() + 1 == EVALUATIONS[name]
        assert published.known_runs()[name]["evaluations"] == EVALUATIONS[name]
        assert (table["attempt"] == 1).all() and (table["split"] == "train").all()
        probes = 500 if name in (PROBE_DPO, SFT) else 1
        assert len(table) == EVALUATIONS[name] * 12 * probes
        assert (table["n_examples"] == 500 // probes).all()


@pytest.mark.parametrize("run", PRINTED)
def test_real_runs_give_the_printed_numbers(run, summary):
    for printed in PRINTED[run].split(";"):
        what, _, numbers = printed.strip().partition(" ")
        steps = numbers.split(" -> ")
        if what == "argmax":
            kind = "chosen" if ARGMAX[run] == CHOSEN else "random_nonhum"
            row = summary.loc[run, kind, ARGMAX[run]]
        else:
            row = summary.loc[run, what, "logp"]
        digits = len(steps[0].split(".")[1])
        found = [f"{row['first']:.{digits}f}"]
        if len(steps) == 3:
            found.append(f"{row['best']:.{digits}f}@{row['best_at']:.0f}")
        if len(steps) > 1:
            found.append(f"{row['last']:.{digits}f}")
        assert found == [ROUNDED_TWICE.get((run, step), step) for step in steps], (run, what)


@pytest.mark.parametrize(("run", "label"), ARGMAX.items())
def test_real_runs_argmax_label(run, label, summary):
    quantities = summary.loc[run].index.unique("quantity").tolist()
    assert sorted(quantities) == sorted(["logp", label])


def test_real_runs_counts(real):
    last = {name: table.iloc[-1] for name, table in real.items()}
    assert (last[EXTEND]["step"], last[EXTEND]["examples"]) == (9750, 39000)
    assert last[EXTEND]["epoch"] == pytest.approx(3.9)
    assert (last[PROBE_DPO]["step"], last[PROBE_DPO]["epoch"]) == (1225, pytest.approx(9.8))
    assert (last[SFT]["step"], last[SFT]["epoch"]) == (9750, pytest.approx(7.8))
    assert (last[DPO]["step"], last[DPO]["examples"]) == (6800, 13600)


def test_real_runs_a_o_energy_and_complement(real):
    def means(run, kind, column):
        table = real[run]
        return table[table["response_type"] == kind].groupby("evaluation")[column].mean()

    for run, kind, first, last in [
        (PROBE_DPO, "random_nonhum", "231.7", "247.3"),
        (SFT, "random_nonhum", "231.7", "240.7"),
        (PROBE_DPO, "random_nonhum", "231.70", None),
        (SFT, "chosen", "251.66", None),
        (DPO, "random_nonhum", "231.70", None),
    ]:
        values = means(run, kind, "A_o")
        decimals = len(first.split(".")[1])
        assert f"{values.iloc[0]:.{decimals}f}" == first
        assert last is None or f"{values.iloc[-1]:.1f}" == last
    for run in (SFT, DPO):
        assert f"{means(run, 'chosen', 'residual_norm').iloc[0]:.2f}" == "0.75"
        assert f"{means(run, 'chosen', 'energy').iloc[0]:.2f}" == "0.69"
    rows = read_metrics(RUNS / PROBE_DPO / "prob_train_metrics.json")
    assert sum(np.isnan(row["except_argmax_prob_logits"]) for row in rows) == 27
    complement = real[PROBE_DPO]["logp_complement"]
    assert complement.isna().any() and np.isneginf(complement).any()
    norm = real[SFT].loc[real[SFT]["response_type"] == "irr_hum", "prob_norm"]
    assert norm.notna().all() and norm.min() > 0 and norm.max() < 1


def test_imported_runs_go_through_our_own_statistics(real):
    """Section 6.4: the change of y⁺ and y⁻ of two published runs, by the functions of our figures,
    from per-example rows (with intervals) and from means alone."""
    for name, kind, first, last in (
        ("prob_pythia410m_dpo", "rejected", -121.4, -197.6),
        ("extend_sft_qwen18_observe", "rejected", -97.1, -60.6),
    ):
        found = dynamics.estimate(dynamics.change({0: real[name]}, "logp", [kind]))
        assert found.value == pytest.approx(last - first, abs=0.15)
        assert (found.low < found.high) == (name == "prob_pythia410m_dpo")

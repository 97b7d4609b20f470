"""The plan: jobs from Snakemake's summary, what finished ones used, and what is told of it."""

import json

import pytest

from benchmarks import planning
from learning_dynamics import plan
from learning_dynamics.costs import Cost, Costs
from learning_dynamics.errors import InputError
from tests.conftest import ROOT, STUDY

HEAD = "output_file\tdate\trule\tlog-file(s)\tstatus\tplan\n"
RUN = "results/toy/runs/toyworld/toy-neox/dpo/seed0"
BASE = "results/toy/models/toy-neox/seed1"


def line(path, rule, done, log="-"):
    return "\t".join([path, "-", rule, log, "ok", "no update" if done else "update pending"]) + "\n"


def jobs(tmp_path, *lines):
    return plan.jobs_of(HEAD + "".join(lines), tmp_path, "toy")


def test_a_job_is_found_by_its_outputs(tmp_path):
    """Once, whatever the number of its outputs; done when all of them are; files of one rule that
    differ are jobs of their own; what is drawn or downloaded as data has no kind."""
    found = jobs(
        tmp_path,
        line(f"{RUN}/trajectory.parquet", "finetune_dpo_measured", True),
        line(f"{RUN}/model", "finetune_dpo_measured", False),
        line(f"{RUN}/reference.parquet", "score_reference", True),
        line(f"{RUN}/reference-epoch1.parquet", "score_reference", True),
        line(f"{BASE}/model", "pretrain_model", True),
        line(f"{BASE}/model.json", "pretrain_model", True),
        line(f"{BASE}/probe-toyworld+leading_space.parquet", "sample_probes", True),
        line(f"{BASE}/answers-toyworld.parquet", "generate_answers_of_base", True),
        line("results/toy/models/hub-model/model", "fetch_model", False),
        line("results/toy/digits/mlp/seed2/training.parquet", "learn_digits", True),
        line("results/toy/digits/mlp/seed2/one-step.parquet", "learn_digits", True),
        line("figures/squeeze.pdf", "publish_figure", False),
        line("figures/squeeze.png", "publish_figure", False),
        line("results/toy/data/toyworld/pairs.parquet", "build_pairs", True),
    )
    kinds = [job.kind for job in found]
    assert kinds == ["finetune", "score_reference", "score_reference", "pretrain_model",
                     "sample_probes", "generate_answers", "fetch_model", "learn_digits", None,
                     None]  # fmt: skip
    assert [job.done for job in found] == [False, True, True, True, True, True, False, True, False,
                                           True]  # fmt: skip
    names = [{k: v for k, v in job.names.items() if k != "file"} for job in found]
    assert names[0] == {"dataset": "toyworld", "model": "toy-neox", "run": "dpo", "seed": "0"}
    assert names[4] == {"dataset": "toyworld+leading_space", "model": "toy-neox", "seed": "1"}
    assert names[6] == {"model": "hub-model"} and names[7] == {"network": "mlp", "seed": "2"}
    for job in found:
        if job.kind and job.kind != "fetch_model":
            assert Costs(STUDY).of(job.kind, job.names).memory_mb > 0


def test_what_a_job_used_is_read_where_it_recorded_it(tmp_path):
    """A run's run.json, unless it was interrupted; another job's log; nothing where nothing is."""
    use = {"seconds": 3.0, "cpu_seconds": 2.0, "peak_memory_mb": 500.0}
    run, other, silent = jobs(
        tmp_path,
        line(f"{RUN}/trajectory.parquet", "finetune_dpo", True),
        line(f"{RUN}/reference.parquet", "score_reference", True, "logs/reference.log"),
        line(f"{RUN}/one-step.parquet", "measure_one_step", True),
    )
    assert plan.read_use(run, tmp_path) is None
    (tmp_path / RUN).mkdir(parents=True)
    for attempts, expected in ((2, None), (1, use)):
        facts = {"attempts": attempts, "used_in_last_attempt": use}
        (tmp_path / RUN / "run.json").write_text(json.dumps(facts))
        assert plan.read_use(run, tmp_path) == expected
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/reference.log").write_text(f"12:00:00 x\n12:00:01 used: {json.dumps(use)}\n")
    assert plan.read_use(other, tmp_path) == use
    assert plan.read_use(silent, tmp_path) is None


def costly(kind="finetune", model="a", used=None, seconds=10.0, done=True, **cost):
    job = plan.Job(kind, {"dataset": "d", "model": model, "run": "r"}, ROOT / "absent", "-", done)
    job.cost = Cost(seconds, 1000.0, **cost)
    if used:
        job.used = {"seconds": 7.0, "cpu_seconds": used, "peak_memory_mb": 2000.0}
    return job


def test_estimates_are_corrected_by_the_other_finished_jobs():
    """By the median of the same kind and model, else of the kind, else not at all; never by the job
    itself."""
    given = [costly(used=20.0), costly(used=40.0), costly(used=30.0), costly(model="b"),
             costly(kind="score_reference")]  # fmt: skip
    plan.calibrate(given)
    assert [job.expected("core_seconds") for job in given] == [35.0, 25.0, 30.0, 30.0, 10.0]
    assert [job.expected("memory_mb") for job in given] == [2000.0] * 4 + [1000.0]
    alone = [costly(used=20.0), costly(kind="score_reference")]
    plan.calibrate(alone)
    assert [job.factors["core_seconds"] for job in alone] == [1.0, 1.0]


def test_cores_and_gpus_are_paid_for():
    """CPU time of all cores; wall time of all GPUs."""
    assert costly(threads=4).estimate("core_seconds") == 40.0
    assert costly(gpus=2, threads=8).estimate("core_seconds") == 20.0
    assert costly(used=9.0, threads=4).measured("core_seconds") == 9.0
    assert costly(used=9.0, gpus=2).measured("core_seconds") == 14.0


def test_the_report_tells_what_is_left_and_how_good_estimates_were():
    given = [costly(used=20.0), costly(done=False, seconds=7200.0, gpus=2), costly(done=False)]
    plan.calibrate(given)
    text = plan.report(given, STUDY, 4)
    assert "3 runs, 1 of them done" in text
    assert "to do: 2 jobs, 8 GPU-hours, 0.00556 CPU-hours" in text  # twice the estimate
    assert "with 4 GPUs at a time: 2 h or more" in text
    row = next(r for r in text.splitlines() if r.startswith("finetune") and "[" in r)
    assert "0.50 [0.50, 0.50]" in row


def test_a_plan_is_made_of_snakemakes_words(tmp_path):
    """Runs with what leads to them; finished ones count as done; what cannot be planned is an
    error."""
    overlay = planning.overlay(1)
    (tmp_path / "thousand.yaml").write_text(json.dumps(overlay))
    targets = [f"results/thousand/runs/second/{model}/{run}/seed0/trajectory.parquet"
               for model in ("toy-neox", "hub-0") for run in ("sft", "dpo-lr0.0001")]  # fmt: skip
    words = ["-s", str(ROOT / "Snakefile"), "--configfile", "thousand.yaml"]
    text = plan.plan([*targets, *words], tmp_path)
    assert "study thousand: 4 runs, 0 of them done" in text
    assert "second/hub-0/dpo-lr0.0001" in text
    summary = planning.call(tmp_path, *targets, "--summary")[-1]
    assert planning.fake(tmp_path, summary, targets) == 4
    text = plan.plan([*targets, *words], tmp_path)
    assert "study thousand: 4 runs, 4 of them done" in text and "to do: 0 jobs, nothing" in text
    with pytest.raises(InputError, match="nothing"):
        plan.plan(["nothing", *words], tmp_path)

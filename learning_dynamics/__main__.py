"""``python -m learning_dynamics score MODEL [MODEL ...] PROBES --out trajectory.parquet``: the
trajectory of models that are saved already, several checkpoints of one run in their order."""

import argparse
import re
from pathlib import Path

from learning_dynamics import trajectory
from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import write_json, write_table
from learning_dynamics.known import FACTS
from learning_dynamics.observe import BATCH_TOKENS, facts, read_probes, score_models


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m learning_dynamics", description=__doc__)
    score = parser.add_subparsers(required=True, metavar="score").add_parser(
        "score", help="score a probing set with saved models", description=__doc__
    )
    score.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folders, as "
                       "save_pretrained writes them, in the order of their run")  # fmt: skip
    score.add_argument("probes", metavar="PROBES", help="probing set: a Parquet file with the "
                       "columns split, example_id, prompt, response_type, response")  # fmt: skip
    score.add_argument("--out", required=True, type=Path, help="output: trajectory.parquet; whose "
                       f"it is goes to {FACTS} beside it")  # fmt: skip
    score.add_argument("--steps", nargs="+", type=int, help="updates done, one number per model; "
                       "default: those in names like checkpoint-500 (0 for another name in "
                       "front of them), in their order; else 0 1 2 ...")  # fmt: skip
    score.add_argument("--batch-size", type=positive, help="training rows per update; without it "
                       "the rows consumed are not known")  # fmt: skip
    score.add_argument("--rows", type=positive, help="rows of the training set; without it epochs "
                       "are not known")  # fmt: skip
    texts = score.add_argument_group("how probes become tokens")
    texts.add_argument("--max-length", type=positive, help="most tokens of prompt and response; "
                       "default: all positions of the model")  # fmt: skip
    texts.add_argument("--max-prompt-length", type=positive, help="longer prompts keep their end")
    texts.add_argument("--special-tokens", action="store_true", help="prompts hold special tokens, "
                       "as a chat template writes them")  # fmt: skip
    texts.add_argument("--end-of-turn", help="the token that closes a response, where it is not "
                       "the tokenizer's end-of-text")  # fmt: skip
    whose = score.add_argument_group("whose it is, for figures and claims")
    whose.add_argument("--role", help="sft, dpo, ...: its part in the claims; default: none")
    whose.add_argument("--model-name", help="default: the first model's folder")
    whose.add_argument("--data-name", default="probes", help="default: probes")
    whose.add_argument("--lr", type=float, help="learning rate of the run")
    whose.add_argument("--seed", type=int, default=0, help="of the run; default: 0")
    compute = score.add_argument_group("compute")
    compute.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    compute.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32",
                         help="of the activations (autocast)")  # fmt: skip
    compute.add_argument("--threads", type=positive, default=1)
    compute.add_argument("--batch-tokens", type=positive, default=BATCH_TOKENS, help="tokens per "
                         f"scoring batch; default: {BATCH_TOKENS}")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.rows and not args.batch_size:
        raise InputError("--rows: epochs need the rows per update too; expected --batch-size")
    probes = read_probes(args.probes)
    texts = ("max_length", "max_prompt_length", "special_tokens", "end_of_turn")
    compute = ("device", "precision", "threads", "batch_tokens")
    folders, steps = args.models, args.steps
    if steps is None:  # a shell puts checkpoint-1000 before checkpoint-500
        ordered = sorted(zip(steps_of(folders), folders, strict=True), key=lambda one: one[0])
        steps, folders = ([one[n] for one in ordered] for n in (0, 1))
    table = score_models(
        folders,
        steps,
        probes,
        {name: getattr(args, name) for name in compute},
        {name: getattr(args, name) for name in texts},
        args.batch_size,
        args.rows,
    )
    name = args.model_name or folders[0].resolve().name
    known = facts(probes, args.role, name, args.data_name, args.lr, args.seed)
    write_json(args.out.with_name(FACTS), known)
    write_table(args.out, table, trajectory.SCHEMA)


def steps_of(folders: list[Path]) -> list[int]:
    """The updates in the names of checkpoints (``checkpoint-500``), of which the first may be the
    model that the run started from, under any name; or the models' numbers."""
    found = [re.fullmatch(r"checkpoint-(\d+)", folder.resolve().name) for folder in folders]
    if not all(found[1:]):
        return list(range(len(folders)))
    return [int(one[1]) if one else 0 for one in found]


if __name__ == "__main__":
    run_script(main)

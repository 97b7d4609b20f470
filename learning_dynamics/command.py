"""What the scripts that need a model share: its arguments, and how it is loaded."""

import argparse
import json

import torch

from learning_dynamics import models
from learning_dynamics.tokens import Codec


def add_model(parser: argparse.ArgumentParser, flag: str = "--model") -> None:
    """Add the arguments that :func:`load_model` reads; ``flag`` names the model's folder."""
    parser.add_argument(flag, dest="model", required=True, help="model folder")
    parser.add_argument("--model-spec", type=json.loads, required=True, help="the model, as JSON")
    parser.add_argument("--texts", type=json.loads, required=True, help="how texts are read, JSON")
    parser.add_argument("--compute", type=json.loads, required=True, help="section compute, JSON")


def load_model(args: argparse.Namespace) -> tuple[torch.nn.Module, Codec]:
    """The model on its device, and the codec of its tokenizer, its length limits and the way in
    which the data set's texts are read and cut."""
    model, tokenizer = models.load(args.model, models.device_of(args.compute))
    limits, texts = args.model_spec, args.texts
    return model, Codec(
        tokenizer,
        limits["max_length"],
        limits["max_prompt_length"],
        published=texts["confounds"]["truncation"] == "as_published",
        keep="start" if texts.get("format") == "ultrafeedback" else "end",
        count_end=texts["confounds"]["end_of_text"] == "as_published",
        special_tokens=(texts.get("chat_template") or "hh") != "hh",
        end_of_turn=texts.get("end_of_turn"),
    )

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
    parser.add_argument("--compute", type=json.loads, required=True, help="section compute, JSON")


def load_model(args: argparse.Namespace) -> tuple[torch.nn.Module, Codec]:
    """The model on its device, and the codec of its tokenizer and length limits."""
    model, tokenizer = models.load(args.model, models.device_of(args.compute))
    spec = args.model_spec
    return model, Codec(tokenizer, spec["max_length"], spec["max_prompt_length"])

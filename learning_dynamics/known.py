"""What is known of the published runs; torch-free."""

from functools import cache
from pathlib import Path

import yaml


@cache
def known_runs() -> dict[str, dict]:
    """What is known of each published run, by folder name (published_runs.yaml)."""
    path = Path(__file__).with_name("published_runs.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))

"""Five kills of the CI study under real Snakemake; fifty of the toy study: make reliability."""

import pytest

from tests.reliability.kills import SHARES, Kills


@pytest.mark.pipeline
def test_a_study_that_is_killed_again_and_again_ends_the_same(tmp_path):
    """Training, checkpoint writes, Snakemake, everything at once: what is checked stands in
    docs/reliability.md."""
    kills = Kills(tmp_path, "ci", seed=0)
    kills.run(list(SHARES)[:5])
    assert len(kills.outcomes) == 5
    assert [o.inside for o in kills.outcomes].count("elsewhere") == 0

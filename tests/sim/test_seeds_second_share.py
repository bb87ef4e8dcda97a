"""More random seeds: the other share, for the other process."""

from seed_share import SHARE, hold


def test_more_seeds_hold_every_invariant() -> None:
    hold(SHARE)

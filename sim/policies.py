"""Proxy policies of simulated databases, drawn from a stream of their own: a change here leaves all other draws of a seed as
they are."""

import random

SHARES = (("single", 0.5), ("all-nodes", 0.35), ("all-master-shards", 0.15))
CHANGE_SHARE = 0.08
"""Share of the operator's requests after which a database changes its proxy policy."""
DRAINS_S = (0, 2, 10, 30)


class ProxyPolicies:
    """The stream of one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"proxy policies of {seed}")

    def draw(self) -> str:
        """The policy of a database."""
        at = self._rng.random()
        for policy, share in SHARES:
            at -= share
            if at < 0:
                return policy
        return SHARES[0][0]

    def drain_s(self) -> int:
        """The time that clients of a leaving node have."""
        return self._rng.choice(DRAINS_S)

    def chosen(self, databases: list[int]) -> int | None:
        """The database that changes its policy now; None: usually none does."""
        wants = self._rng.random() < CHANGE_SHARE
        return self._rng.choice(databases) if wants and databases else None

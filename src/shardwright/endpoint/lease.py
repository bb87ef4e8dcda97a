"""What one endpoint process may do for one endpoint without a proof, and how long a proof holds.

Pure. Kept by ``process.py`` for as long as the process lives, also while it does not serve the endpoint: what was applied
once must not be undone by a late leader. A proof is the answer of a replica that is asked through its primary
(``prover.py``). The reasons are in ``docs/decisions/0026-lease.md``.
"""

from shardwright.endpoint.protocol import LeaseTerms
from shardwright.model.ids import EndpointUid
from shardwright.model.lease import LeaseSeen

PROOF_S = 3.0
"""How long replies are passed on after the question that was answered: from the question on, because the answer may be
old."""
HOLD_BEFORE_S = 1.0
"""So long before its end nothing new is sent, so that usually nothing is in flight then."""
ASK_EVERY_S = 0.4
WAIT_S = 0.4
"""How long the server waits for a replica's answer."""
NEVER = float("-inf")
"""The end of a proof that there was not."""
NO_PROOF = b"-ERR shardwright: no replica proves that its primary is in force, this command was not executed\r\n"


class LeaseStanding:
    """The lease of one endpoint as one process knows it. ``instance`` identifies the process; empty: no lease names it."""

    __slots__ = ("_waived_from", "instance", "is_waived", "terms")

    def __init__(self, instance: str = "") -> None:
        self.instance = instance
        self.terms: LeaseTerms | None = None
        """The last that were applied; None: it was never told of a lease, and needs no proof."""
        self.is_waived = False
        """Some server may be served without a proof."""
        self._waived_from = 0

    def apply(self, terms: LeaseTerms) -> bool:
        """Apply terms unless they are old. Returns whether they were new. If a proof is wanted of a process that needed
        none, it needs one when it has one: until then the records still name it."""
        if self.terms is not None and terms.version <= self.terms.version:
            return False
        self.terms = terms
        is_named = self.instance in terms.waived
        if not is_named:
            self.is_waived = False
        elif not terms.is_needed:
            self.is_waived, self._waived_from = True, terms.generation
        return True

    def seen(self, uid: EndpointUid, unconfirmed_s: float | None = None) -> LeaseSeen | None:
        """For the status of the process; None: it was never told of a lease."""
        return None if self.terms is None else LeaseSeen(uid, self.terms.version, self.is_waived, unconfirmed_s)

    @property
    def is_wanted(self) -> bool:
        """Whether the leader wants proofs."""
        return self.terms is not None and self.terms.is_needed

    def needs_proof(self, generation: int) -> bool:
        """Whether replies of a server of this generation may only be passed on with a proof. A waiver of a later generation
        does not hold for an older server, which may have been replaced without a proof of its end."""
        return self.terms is not None and not (self.is_waived and generation >= self._waived_from)

    def end_waiver(self) -> bool:
        """From now on it needs proofs. Returns whether that is new. Without effect unless the leader wants proofs."""
        was_waived, self.is_waived = self.is_waived, self.is_waived and not self.is_wanted
        return was_waived and not self.is_waived

"""Mistakes in a change to strict mode."""

from collections.abc import Sequence
from typing import Any

from shardwright.leader import fitting
from shardwright.leader.apply import Applier
from shardwright.model.commands import ProveStrict
from sim.mutants.registry import Patch, mutant_in
from sim.mutants.strictness_situations import a_replica_that_hangs_while_its_database_becomes_strict


@mutant_in(a_replica_that_hangs_while_its_database_becomes_strict)
def believes_the_mode_when_every_process_has_shown_it() -> Sequence[Patch]:
    """Without a look at whether a replica has what was answered before."""

    async def prove(self: Any, command: ProveStrict) -> None:
        view = self._current()
        if fitting.to_prove_strict(command, view) is not None:
            await self._commit(lambda now: fitting.proven_strict(now, view, command.database_uid))

    return [(Applier, "_prove_strict", prove)]

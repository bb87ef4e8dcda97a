"""Real chaos: real processes under writers, disturbed by a seed, then compared with what was acknowledged."""

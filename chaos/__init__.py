"""Chaos runs: a real cluster under writers, disturbed by faults from a seed, then compared with what was acknowledged."""

"""Moves as pure state machines: what a live move needs next, and what a new leader does with an unfinished handoff."""

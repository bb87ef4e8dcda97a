"""Actions as pure state machines, entered by ``base.decide_action``. They begin moves; ``moves`` carries them through."""

"""Real ``valkey-server`` and ``redis-server`` processes: their binaries, configuration, answers and sessions."""

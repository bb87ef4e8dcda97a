"""One node's daemon on a machine of its own: its settings. What runs all nodes on one machine is in ``local/``."""

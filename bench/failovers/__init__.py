"""How long nothing is acknowledged when the primary's machine is lost, beside Sentinel on the same machines."""

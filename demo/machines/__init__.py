"""The demonstration on several machines: every node action, then the loss of machines."""

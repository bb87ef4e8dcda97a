"""Desired × observed → commands: keeps databases, slot groups, endpoints and processes in the desired state. Pure."""

"""Desired × seen → commands: what keeps databases, slot groups, endpoints and processes as they are wanted. Pure."""

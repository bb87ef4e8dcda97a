"""Shardwright: an open, self-hosted cluster manager for Redis and Valkey."""

__version__ = "0.1.0"

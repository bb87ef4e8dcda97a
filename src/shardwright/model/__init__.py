"""The words of Shardwright as values: frozen records of what is wanted and of what was seen.

Imports nothing from the other packages, no clock, no I/O. Everything else in the project speaks in these records.
"""

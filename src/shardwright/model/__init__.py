"""The vocabulary of Shardwright as values: frozen records of the desired and the observed state.

Imports nothing from the other packages, no clock, no I/O. All other packages use these records.
"""

"""The demonstration: a real cluster on this machine, live writes, every node action, and a report with the evidence.

Uses what an operator and an application use: the command line to start and stop, the REST API, ordinary redis-py clients.
"""

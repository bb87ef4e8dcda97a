"""Trust between machines: the cluster's authority, certificates and their roles, join tokens, the exchange of a join.

Most modules are pure: times, keys and random values are arguments. Only ``keys.new_key``, ``contexts``, ``files`` and
``newcomer`` touch the world. Nothing here reads or writes the store, serves a route or decides where a node belongs.
"""

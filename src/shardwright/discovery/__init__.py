"""The discovery service of a node: clients ask where a database is, in the words of the Sentinel protocol.

``found.py`` decides which place is named, ``dialogue.py`` speaks with one client, ``server.py`` has the sockets. It reads
the daemon's mirror and writes nothing.
"""

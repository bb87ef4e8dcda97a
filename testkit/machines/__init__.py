"""Machines for tests and demonstrations, made of namespaces: each has its own processes, network, files and names.

``group.py`` is what is used: ``Machines``. ``machine.py`` is one machine from outside, ``boot.py``, ``supervisor.py`` and
``systemctl.py`` run inside, ``switch.py`` connects them. Needs Linux, root, iproute2 and util-linux. Must change
nothing of this machine but its own directory.
"""

"""The local cluster: its files, its creation, its supervisor and the daemons' processes on one machine."""

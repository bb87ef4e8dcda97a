"""Chaos on machines: the network is cut, machines freeze, restart and lose power, while clients write and actions run."""

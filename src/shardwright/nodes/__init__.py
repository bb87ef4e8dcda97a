"""The one way to a node: its processes and its endpoint process, wherever the node is."""

"""The agent of a node: keeps its servers and its endpoint process as the records want them."""

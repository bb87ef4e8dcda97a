"""The agent of a node: it runs the servers and the endpoint process that the records require."""

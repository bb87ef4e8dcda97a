"""This machine's processes, files and figures. Used by the agent and the local cluster."""

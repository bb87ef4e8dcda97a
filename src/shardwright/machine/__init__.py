"""What this machine can do: its processes, files and figures. Shared by the agent and the local cluster."""

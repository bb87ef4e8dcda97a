"""The only access to a node's processes and its endpoint process, on this machine or another one."""

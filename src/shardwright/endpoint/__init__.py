"""The endpoint process: what clients talk to. Holds commands during a handoff, passes its connections when it moves."""

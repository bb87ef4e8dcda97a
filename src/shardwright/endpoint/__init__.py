"""The endpoint process: it serves clients, holds their commands during a handoff, and passes their connections to another
process during a rebind."""

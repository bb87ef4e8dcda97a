"""Planning: where copies and endpoints go, in which order, and why a plan is impossible. Pure."""

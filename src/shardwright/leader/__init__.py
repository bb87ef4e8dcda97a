"""Leadership: the election of the leader, and the leader's loop."""

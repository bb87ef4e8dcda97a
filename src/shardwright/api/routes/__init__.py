"""HTTP in, one service call, HTTP out. No decision lives here."""

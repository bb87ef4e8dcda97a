"""HTTP in, one service call, HTTP out. Routes decide nothing."""

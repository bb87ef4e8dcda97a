"""The meaning of a request: pure decisions on the view, and the one place that commits them. No HTTP."""

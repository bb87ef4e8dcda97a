"""What a request means: pure decisions on the view, and the one place that commits them. No HTTP."""

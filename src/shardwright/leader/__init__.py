"""Leadership: who decides for the cluster, and what the one who does it turns around."""

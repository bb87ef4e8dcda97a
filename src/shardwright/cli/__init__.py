"""The command line. It uses the public API only (import rules enforce this); ``local`` has the local cluster's commands."""

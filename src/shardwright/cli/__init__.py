"""The command line. Talks to the public API only (import rules see to it); the local cluster's commands are ``local``."""

"""The wire's words. Redis Enterprise's vocabulary is confined to this package."""

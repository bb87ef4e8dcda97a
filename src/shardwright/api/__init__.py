"""The REST API. It writes intent and reads state, with or without a leader, and never contacts a shard.

``routes/`` are thin and know HTTP; ``services/`` decide without HTTP; ``schemas/v1/`` contain the wire's words.
"""

"""The REST API. It writes intent and reads state, with or without a leader, and never touches a shard.

``routes/`` are thin and know HTTP; ``services/`` decide without HTTP; ``schemas/v1/`` hold the wire's words.
"""

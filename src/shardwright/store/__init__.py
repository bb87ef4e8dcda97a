"""The store: one small protocol with etcd's guarantees and bounds, its backends, and the layout of the records in it."""

"""The store: a small protocol with etcd's guarantees and limits, its backends, and the layout of the records in it."""

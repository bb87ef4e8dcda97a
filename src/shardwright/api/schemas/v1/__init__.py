"""Version 1 (and 2) of the wire: request models, answer types, and pure converters from records to them."""

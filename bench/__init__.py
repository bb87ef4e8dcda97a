"""What the product costs, each figure beside its peer and its floor, measured in the same run: ``python -m bench``."""

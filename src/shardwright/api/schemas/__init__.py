"""The wire's words. Redis Enterprise's vocabulary lives here and nowhere else."""

"""What tests, the simulation and the chaos runs share. The product does not import it."""

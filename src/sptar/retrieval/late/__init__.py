"""A vector for each token, compared by MaxSim."""

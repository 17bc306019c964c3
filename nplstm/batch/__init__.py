"""How sequences lie in a batch, and the packed layout that the time loop reads."""

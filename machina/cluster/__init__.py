"""A Ray cluster: nodes, access, and the actors and learner ranks that are its processes."""

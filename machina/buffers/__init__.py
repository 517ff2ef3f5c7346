"""What passes between actors and learner: unrolls one way, parameters the other."""

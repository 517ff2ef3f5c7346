"""Networks, what they read, the distributions of actions, precision, frame stacks."""

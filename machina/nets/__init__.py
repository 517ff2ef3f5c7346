"""Networks, and what a learner needs around them: precision, frame stacks, PopArt, optimisers."""

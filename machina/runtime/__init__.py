"""The data plane: actors fill unrolls, a bounded queue hands them over, parameters come back."""

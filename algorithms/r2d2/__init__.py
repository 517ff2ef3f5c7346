"""R2D2: recurrent action values from replayed sequences (OpenReview r1lyTjAqYX)."""

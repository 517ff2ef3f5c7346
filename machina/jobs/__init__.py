"""What each command does, one module per command, named after it."""

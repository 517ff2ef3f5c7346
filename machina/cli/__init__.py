"""The command line. Each command is one small module; nothing heavy is imported before it is needed."""

"""Configurations shipped with the package: YAML files that hold what differs from the defaults."""

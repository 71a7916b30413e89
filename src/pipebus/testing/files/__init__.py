"""The `[[tests]]` of config files."""

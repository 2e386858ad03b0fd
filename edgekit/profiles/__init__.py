"""Device profiles: the facts of one board, one flat TOML file."""

"""Runtime trees: which interpreter runs on which board, and its files from locked wheels."""

"""Source models: what training left behind, recognised by content and looked into without running it."""

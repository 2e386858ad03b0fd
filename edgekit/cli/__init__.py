"""The command line: parse, call, show. Nothing else prints."""

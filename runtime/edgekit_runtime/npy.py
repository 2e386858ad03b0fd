"""What NumPy raises of a damaged `.npy`: its reader of headers lets the errors of Python's own parser through."""

from tokenize import TokenError

DAMAGED = (OSError, ValueError, EOFError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError)

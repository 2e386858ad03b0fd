"""What NumPy raises of a damaged `.npy`: its reader of headers lets the errors of Python's own parser through."""

from tokenize import TokenError

DAMAGED = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RecursionError, SyntaxError, TokenError, TypeError,
    ValueError,
)  # fmt: skip

"""`edgekit`, and `python -m edgekit`."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line. To import it takes a moment, and that may be interrupted as well."""
    try:
        from edgekit.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()

"""`python -m audiotag` is the command `audiotag`."""

from audiotag.cli import main

if __name__ == "__main__":
    main()

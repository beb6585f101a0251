"""`python -m pipeline` is `foundry`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()

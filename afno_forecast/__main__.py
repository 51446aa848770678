"""`python -m afno_forecast`: the same as `afno-forecast`."""

from .cli import main

if __name__ == "__main__":
    main()

"""`python -m atmo` is the same as `atmo`."""

from atmo.cli.main import main

if __name__ == "__main__":
    main()

"""Live parity: the original packages and ours score the same images with the same random weights. Not run by pytest."""


def main() -> int:
    """`python -m tests.parity`: see `tests/parity/driver.py`."""
    from tests.parity import driver

    return driver.main()

"""An argument parser whose complaint is one line: usage is what --help is for."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Exits with status 2 and `PROGRAM: message` on stderr."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

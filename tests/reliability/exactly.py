"""The command on a base in fp64."""

import sys

from graftlm.checkpoint import Base, load_base
from graftlm.cli.main import main
from graftlm.recipes import fit


def exact(name: str, head: str | None = None) -> Base:
    base = load_base(name, head=head)
    base.model.double()
    return base


if __name__ == "__main__":
    fit.load_base = exact
    main(sys.argv[1:])

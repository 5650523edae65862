"""Run `python -m accession.cli`."""

import sys

from accession.cli.main import main

sys.exit(main())

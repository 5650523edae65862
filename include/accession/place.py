"""The files that come with the library: beside it in the repository, inside it in the wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent

ROOT = _PACKAGE if (_PACKAGE / "verify_register.py").exists() else _PACKAGE.parent

"""A JSON artifact, and the folder of a run."""

import orjson
from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A JSON artifact. It is immutable, and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> bytes:
        """Return the bytes that are stored on S3."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


def run_path(run: str, path: str = "") -> str:
    """Return a path in the folder of a run."""
    return f"runs/{run}/{path}"

"""A JSON artifact, and where the artifacts of a run are."""

import orjson
from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A JSON artifact: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> bytes:
        """Its bytes on S3."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


def run_path(run: str, path: str = "") -> str:
    """A path in the folder of a run."""
    return f"runs/{run}/{path}"

"""A writer in a process of its own, to be stopped and killed: `python writer.py ENVIRONMENT BUCKET RUN EPOCH ENTITY`.

Executes part 0 of the entity. Exits 0 when it is done, 3 when it was fenced.
"""

import sys

import boto3

from accession.artifacts import Store
from accession.dynamodb import DynamoDB, client_config
from accession.errors import FencedError
from accession.mapping import MAPPINGS, load_mapping
from accession.run import Run


def main(environment: str, bucket: str, run: str, epoch: str, entity: str) -> int:
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    store = Store(boto3.client("s3"), bucket, mapping.name, environment)
    dynamodb = DynamoDB(boto3.client("dynamodb", config=client_config()), in_flight=2)
    try:
        Run.load(store, mapping, run, dynamodb).migrate(entity, 0, int(epoch))
    except FencedError as error:
        print(error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The names of an environment, a bucket and a run: a pattern for each, and the words for what it allows."""

ENVIRONMENT = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
ENVIRONMENT_WORDS = "1 to 64 letters, digits, _ and -, with a letter or digit first"

BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"  # Amazon S3 User Guide, "General purpose bucket naming rules"
BUCKET_WORDS = "the name of a bucket: 3 to 63 lower-case letters, digits, dots and -"

RUN = r"^\d{8}T\d{6}Z-[0-9a-f]{8}$"
RUN_WORDS = "the name of a run, such as 20260105T120000Z-0123abcd"

"""Moves a SQLite application database into DynamoDB: exact, safe to repeat, proved, reversible. Knows nothing of
Airflow."""

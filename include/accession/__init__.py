"""Move a SQLite application database into DynamoDB: exactly, repeatably, with proof and undo. Without Airflow."""

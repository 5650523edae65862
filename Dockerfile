# Airflow with Accession inside: every container runs the same code, and a worker needs no disk but its own.
FROM apache/airflow:3.3.2

# Empty is unset: without bytecode on disk each `import airflow` takes three times as long.
ENV PYTHONDONTWRITEBYTECODE="" \
    PYTHONPATH=/opt/airflow/include

# requirements.txt, and not requirements.lock: the image's own set (providers for Celery, Postgres and logins, SQLAlchemy
# 2.0) is tested with its Airflow, and the lock would replace most of it. Faker makes the sample library.
COPY requirements.txt /requirements.txt
RUN uv pip install --no-cache --compile-bytecode "apache-airflow==${AIRFLOW_VERSION}" -r /requirements.txt "faker~=40.54" \
    && uv pip check \
    && { python -m compileall -q -j 0 "$(python -c 'import site; print(site.getsitepackages()[0])')" >/dev/null || true; }
# (Some packages ship templates that are no Python and do not compile; what is compiled already is skipped.)

COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 dags /opt/airflow/dags
RUN python -m compileall -q /opt/airflow/include /opt/airflow/plugins /opt/airflow/dags

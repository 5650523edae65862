# Airflow with Accession inside: every container runs the same code, and a worker needs no disk but its own.
FROM apache/airflow:3.3.2

# Empty is unset: without bytecode on disk each `import airflow` takes three times as long.
ENV PYTHONDONTWRITEBYTECODE="" \
    PYTHONPATH=/opt/airflow/include

# The image's own set of packages is tested with its Airflow and stays as it is. requirements-image.lock has what it
# lacks, hashed; Faker makes the sample library. Then whatever requirements.txt needs must be there: offline, the second
# command can only say that it is.
COPY requirements.txt requirements-image.lock /
RUN uv pip install --no-cache --compile-bytecode --no-deps --require-hashes -r /requirements-image.lock \
    && uv pip install --no-cache --offline -r /requirements.txt \
    && uv pip check \
    && { python -m compileall -q -j 0 "$(python -c 'import site; print(site.getsitepackages()[0])')" >/dev/null || true; }
# (Some packages ship templates that are no Python and do not compile; what is compiled already is skipped.)

COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 dags /opt/airflow/dags
RUN python -m compileall -q /opt/airflow/include /opt/airflow/plugins /opt/airflow/dags

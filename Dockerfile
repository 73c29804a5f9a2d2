# A small image of the worker: no compiler, no pip, no root. See docs/deploying/home-server.md.
FROM python:3.11-slim-bookworm AS build
COPY requirements.txt .
# Wheels alone, each checked against its hash. The environment itself has no pip.
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir \
        --require-hashes --only-binary :all: -r requirements.txt

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin worker
WORKDIR /app
COPY --from=build /venv /venv
COPY mqtt_service mqtt_service
COPY supabase supabase
RUN python -m compileall -q mqtt_service
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PORT=3000
USER 10001:10001
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "mqtt_service"]
CMD ["run"]

# One image for every service of the project: `dramatiq tasks` and `neo4j-kafka ...`.

FROM python:3.11-slim AS build
RUN python -m venv /venv
WORKDIR /src
# Dependencies first: this layer is made again only when the lock changes.
COPY requirements.lock .
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY . .
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin worker
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/worker
USER worker
CMD ["dramatiq", "tasks"]

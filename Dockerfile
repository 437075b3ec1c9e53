# One image for everything: `prefect server start`, `python -m flows.deployments serve`, a worker's runs, `distar`.
# CUDA comes with torch's wheels; the host needs a driver and the NVIDIA container toolkit, and nothing else.
#
#   docker build --tag distar:0.1.0 .
#
# A registry's digest pins the base more firmly than a tag: --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON=python:3.11.14-slim-bookworm

# All packages, by the sha256 in the lock. A few are source distributions, whose build needs a compiler; it stays here.
FROM ${PYTHON} AS packages
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements/lock.txt requirements/lock.txt
RUN python -m venv /opt/distar \
    && /opt/distar/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/lock.txt
COPY pyproject.toml README.md ./
COPY distar distar
COPY flows flows
RUN /opt/distar/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON}
# git: retrains run in worktrees and record themselves on branches. tini: ends what is left of a run, and passes on signals.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 distar \
    && useradd --uid 10001 --gid distar --create-home distar \
    && install --directory --owner=distar --group=distar /srv/distar
COPY --from=packages /opt/distar /opt/distar
ENV PATH=/opt/distar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DISTAR_PROJECT=/srv/distar/project \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 10001:10001
WORKDIR /srv/distar
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "flows.deployments", "serve"]

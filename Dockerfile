# One image for everything: `prefect server start`, `python -m flows.deployments serve`, a worker's runs, `distar`.
# CUDA comes with torch's wheels; the host needs a driver and the NVIDIA container toolkit, and nothing else.
#
#   docker build --tag distar:0.1.0 .
#
# A registry's digest pins the base more firmly than a tag: --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON=python:3.11.14-slim-bookworm

# All packages, by the sha256 in the lock. Those that come as sources are pure Python, so nothing here needs a compiler.
FROM ${PYTHON} AS packages
WORKDIR /build
COPY requirements/lock.txt requirements/lock.txt
RUN python -m venv /opt/distar \
    && /opt/distar/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/lock.txt

# The project apart, so that a new version of it is a small layer upon the packages' large one.
FROM packages AS project
COPY pyproject.toml README.md LICENSE ./
COPY distar distar
COPY flows flows
RUN /opt/distar/bin/pip install --no-cache-dir --no-deps --no-build-isolation --prefix /opt/project .

FROM ${PYTHON}
# git: retrains run in worktrees and record themselves on branches. tini: ends what is left of a run, and passes on signals.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 distar \
    && useradd --uid 10001 --gid distar distar \
    && install --directory --owner=distar --group=distar /srv/distar
COPY --from=packages /opt/distar /opt/distar
COPY --from=project /opt/project /opt/distar
# HOME and USER: DVC and Prefect ask for them, and a clone's owner, as whom the image may run, is unknown to it.
# PREFECT_UI_STATIC_DIRECTORY: the server writes its pages there, by default beside its code, which is root's.
ENV PATH=/opt/distar/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=distar \
    DISTAR_PROJECT=/srv/distar/project \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_UI_STATIC_DIRECTORY=/tmp/prefect-ui
USER 10001:10001
WORKDIR /srv/distar
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "flows.deployments", "serve"]

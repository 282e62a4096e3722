# The build needs pip and Debian's tools; what runs needs neither. So the image is made from nothing
# (scratch): Python, the libraries it loads and the program, laid out by deploy/image/make_root.py.
# That is the smallest base there is, and leaves no shell and no package manager to attack or patch.
#
# The release pins the base by digest: --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
# The requirements first: they change less often than the program.
COPY requirements.lock release/hatchling.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --disable-pip-version-check --root-user-action=ignore --no-compile \
      --require-hashes --only-binary=:all: --target=/build/app --requirement requirements.lock && \
    python -m pip install --disable-pip-version-check --root-user-action=ignore --no-compile \
      --require-hashes --only-binary=:all: --target=/build/tools --requirement hatchling.lock
COPY exporter.py deploy/image/healthcheck.py ./app/
COPY deploy/image/make_root.py ./
WORKDIR /build/source
COPY pyproject.toml README.md LICENSE ./
COPY grafana/dashboards ./grafana/dashboards
COPY grafana/rules ./grafana/rules
COPY invent_exporter ./invent_exporter
ARG SOURCE_DATE_EPOCH=0
# The wheel is installed, not the folder copied: so scanners find name, version and license.
RUN export SOURCE_DATE_EPOCH && \
    PYTHONPATH=/build/tools python -m hatchling build --directory /build/dist --target wheel && \
    python -m pip install --disable-pip-version-check --root-user-action=ignore --no-compile \
      --no-cache-dir --no-index --no-deps --target=/build/app /build/dist/*.whl && \
    PYTHONHASHSEED=0 python ../make_root.py /build/app /build/root

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
# Where Python and the libraries come from.
ARG BASE_NAME=docker.io/library/python:3.13-slim
ARG BASE_DIGEST=unknown
LABEL org.opencontainers.image.title="invent-exporter" \
      org.opencontainers.image.description="Serves the runs of Invent workflows as Prometheus metrics, each run counted once" \
      org.opencontainers.image.vendor="The invent-exporter project" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://github.com/invent-exporter/invent-exporter" \
      org.opencontainers.image.source="https://github.com/invent-exporter/invent-exporter" \
      org.opencontainers.image.documentation="https://github.com/invent-exporter/invent-exporter/blob/main/docs/deploy.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
COPY --from=build /build/root /
# The metric invent_exporter_build_info shows the revision.
ENV INVENT_EXPORTER_REVISION=${REVISION} \
    LANG=C.UTF-8 \
    PATH=/usr/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Where a state file without a path of its own ends up.
WORKDIR /data
VOLUME ["/data"]
USER 65532:65532
EXPOSE 10480
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/usr/bin/python", "/app/healthcheck.py"]
ENTRYPOINT ["/usr/bin/python", "/app/exporter.py"]
CMD ["serve"]

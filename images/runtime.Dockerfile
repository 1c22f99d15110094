# What the steps and the workers of a distributed training run in: torch, torchrec, our code.
# The context is a folder with the wheel of this project; PACKAGES is made by packages.Dockerfile.
ARG PACKAGES
ARG ACCEL=cpu

FROM ${PACKAGES} AS code
LABEL tzrec-pipelines.intermediate=true
USER root
COPY *.whl /wheel/
RUN python -m zipfile -e /wheel/*.whl /code \
 && python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${PACKAGES} AS cpu

FROM ${PACKAGES} AS cuda
# What NVIDIA's container runtime mounts.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${ACCEL}
COPY --from=code /code /opt/venv/lib/python3.11/site-packages/
CMD ["python3", "-m", "components.cli", "--help"]
ARG ACCEL=cpu
ARG BASE
ARG VERSION
ARG REVISION
ARG CREATED
ENV TZREC_GIT_REVISION=${REVISION}
LABEL org.opencontainers.image.title="TZRec Pipelines: steps (${ACCEL})" \
      org.opencontainers.image.description="Prepares data, trains, evaluates, selects and exports" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.base.name=${BASE}

# What starts and watches a distributed training on Kubernetes: its client, our code, no torch.
# The context is a folder with the wheel of this project; PACKAGES is made by packages.Dockerfile.
ARG PACKAGES

FROM ${PACKAGES} AS code
LABEL tzrec-pipelines.intermediate=true
USER root
COPY *.whl /wheel/
RUN python -m zipfile -e /wheel/*.whl /code \
 && python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${PACKAGES}
COPY --from=code /code /opt/venv/lib/python3.11/site-packages/
CMD ["python3", "-m", "components.cli", "--help"]
ARG BASE
ARG VERSION
ARG REVISION
ARG CREATED
ENV TZREC_GIT_REVISION=${REVISION}
LABEL org.opencontainers.image.title="TZRec Pipelines: launcher" \
      org.opencontainers.image.description="Runs a distributed training as a Kubernetes job" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.base.name=${BASE}

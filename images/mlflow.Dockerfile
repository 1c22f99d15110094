# An MLflow server on one volume, for docker-compose and small teams; it asks nobody who they are.
# The context is not used; PACKAGES is made by packages.Dockerfile.
ARG PACKAGES

FROM ${PACKAGES}
USER root
RUN install --directory --owner 1000 --group 0 --mode 2775 /mlflow
USER 1000:1000
# One worker and no job runner: 2 processes instead of 15.
ENV MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_SERVER_ALLOWED_HOSTS=localhost:*,127.0.0.1:*,mlflow:*
EXPOSE 5000
CMD ["python3", "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1", \
     "--backend-store-uri", "sqlite:////mlflow/mlflow.db", \
     "--serve-artifacts", "--artifacts-destination", "/mlflow/artifacts"]
# Making its tables takes a slow machine a minute. A proxy is not for a container's own address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python3", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:5000/health', timeout=4)"]
ARG BASE
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="TZRec Pipelines: MLflow server" \
      org.opencontainers.image.description="MLflow's tracking server with sqlite and local artifacts" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.base.name=${BASE}

# What the images begin with: Debian's Python, a user without rights, and the packages of one lock
# file in /opt/venv. images/build.py, which installs them into a folder before, calls it as
#   docker build --build-arg BASE=... --file images/packages.Dockerfile FOLDER_WITH_PACKAGES
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS installer
LABEL tzrec-pipelines.intermediate=true
RUN python3 -c "import platform, sys; \
found = 'Python %d.%d on %s' % (*sys.version_info[:2], platform.machine()); \
wanted = 'Python 3.11 on x86_64'; \
sys.exit(found != wanted and 'error: the packages are for ' + wanted + ', the base has ' + found)" \
 && python3 -m venv --without-pip /opt/venv
COPY . /opt/venv/lib/python3.11/site-packages/
# Without what nobody runs in these images: headers for a compiler, tests of libraries, servers.
RUN cd /opt/venv/lib/python3.11/site-packages \
 && rm -rf torch/include torch/test torch/bin/protoc* torch/bin/test_* torch/bin/*Test \
      torch/lib/*_test.so pyarrow/include pyarrow/*_flight* tensorboard_data_server/bin \
 && for library in matplotlib networkx numpy pandas pyarrow sympy; do \
      [ ! -d "$library" ] || find "$library" -name tests -type d -prune -exec rm -rf {} +; done \
 # The file system is read-only: whatever has no bytecode now is compiled by every process anew.
 # One file of torch is for later Pythons.
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x py312_intrinsics . \
 # Of files that came with the rights of another umask: everybody's to read, root's to write.
 && find . ! -type l \( ! -perm -444 -o -perm -100 ! -perm -011 -o -perm /022 \) \
      -exec chmod a+rX,go-w {} +

FROM ${BASE}
# A base may bring its own pip; these images have none.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* \
      /usr/local/lib/python3*/ensurepip
RUN groupadd --gid 1000 tzrec \
 && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tzrec \
 && install --directory --owner 1000 --group 0 --mode 2775 /runs \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=installer /opt/venv /opt/venv
# Without a module from the working directory, which may be a volume that others write to.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /tmp
USER 1000:1000

# Thumbloop in a container. The steps are the make targets that CI runs; docs/docker.md tells how to use it.
#
#   docker build --tag thumbloop .                             for processors
#   docker build --tag thumbloop --build-arg DEVICE=cuda .     for NVIDIA GPUs

ARG PYTHON_VERSION=3.12
ARG DEVICE=cpu

FROM python:${PYTHON_VERSION}-slim AS cpu

# torch brings its own CUDA libraries; the host's container runtime adds the driver when it sees these.
FROM python:${PYTHON_VERSION}-slim AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${DEVICE} AS thumbloop
ARG DEVICE

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home thumbloop \
    && install --directory --owner=thumbloop --group=thumbloop --mode=0700 /data

WORKDIR /srv/thumbloop

# The packages change seldom and take minutes, the code changes often: two layers. A pip.conf given as the
# secret `pip` says where packages come from, for example a build of torch without CUDA for a small image.
COPY requirements.lock Makefile ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    PIP_NO_CACHE_DIR=1 make dependencies
RUN if [ "$DEVICE" = cuda ]; then .venv/bin/python -c \
    'import torch; assert torch.version.cuda, f"torch {torch.__version__} has no CUDA: check the secret pip"'; fi

COPY pyproject.toml README.md LICENSE ./
COPY storage storage
COPY trainer trainer
COPY app app
RUN make install

USER thumbloop
ENV PATH=/srv/thumbloop/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/hub \
    THUMBLOOP_DATA_DIR=/data \
    THUMBLOOP_HOST=0.0.0.0 \
    THUMBLOOP_AUTH=accounts
VOLUME /data
EXPOSE 7860

# The first start converts the default model, which takes a while on a slow disk.
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=4 CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]

ENTRYPOINT ["thumbloop"]
CMD ["serve"]

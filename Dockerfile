# Two targets: `docker build --target cpu .` and `docker build --target cuda .` (docs/howto/docker.md).
# The wheel is built once and installed on top of a PyTorch for the target.

FROM python:3.11-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY differseg_med differseg_med
COPY bundles/sts_petctmr_segmentation bundles/sts_petctmr_segmentation
COPY configs configs
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /dist

FROM python:3.11-slim AS cpu
# For a smaller image: --build-arg TORCH="torch --index-url ADDRESS" with the address of PyTorch's index for processors.
ARG TORCH=torch
RUN pip install --no-cache-dir $TORCH
COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir "$(echo /dist/*.whl)[codecs,openvino,xlsx]" && rm -r /dist
RUN differseg-med sample --out /app && useradd --create-home reader
ENV DIFFERSEG_CACHE="" MPLCONFIGDIR=/tmp/matplotlib
USER reader
WORKDIR /app
ENTRYPOINT ["differseg-med"]

FROM pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime AS cuda
COPY --from=wheel /dist /dist
RUN pip install --no-cache-dir "$(echo /dist/*.whl)[codecs,xlsx]" && rm -r /dist
RUN differseg-med sample --out /app && useradd --create-home reader
ENV DIFFERSEG_CACHE="" MPLCONFIGDIR=/tmp/matplotlib
USER reader
WORKDIR /app
ENTRYPOINT ["differseg-med"]

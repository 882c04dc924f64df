# docker build --target cpu -t tf_mrsr .
# docker build --target gpu -t tf_mrsr:gpu .
# docker build --target serving -t tf_mrsr:serving .
#
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" tf_mrsr predict scan.nii.gz -o scan_sr.nii.gz --model m
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" --gpus all \
#     tf_mrsr:gpu train --recipe ... --data ... --run ...
# docker run --rm -p 127.0.0.1:8500:8500 -v "$PWD/models:/models:ro" tf_mrsr:serving
# apptainer run --nv tf_mrsr_gpu.sif train --recipe ... --data ... --run ...
#
# To pin the bases by digest: --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim
ARG SERVING_IMAGE=tensorflow/serving:2.20.0

FROM ${SERVING_IMAGE} AS serving
ENV HOME=/tmp \
    TF_ENABLE_ONEDNN_OPTS=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true
USER 1000:1000
EXPOSE 8500 8501
# What tf-mrsr export --serving-config wrote, mounted at /models.
ENTRYPOINT ["tensorflow_model_server"]
CMD ["--port=8500", "--rest_api_port=8501", "--model_config_file=/models/models.config"]

FROM ${PYTHON_IMAGE} AS base
# Any user may run the image, Apptainer's caller too, so whatever is written without being asked for goes below /tmp.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    TF_FORCE_GPU_ALLOW_GROWTH=true
WORKDIR /opt/tf_mrsr
COPY setup.py pyproject.toml README.md LICENSE ./
COPY tf_mrsr tf_mrsr
COPY train train
COPY weights weights

FROM base AS gpu
# CUDA and cuDNN come as Python packages; the host only needs the driver and the container toolkit. Versions are bounded
# in setup.py.
# hadolint ignore=DL3013
RUN pip install '.[gpu]'
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tf-mrsr"]
CMD ["--help"]

FROM base AS cpu
RUN pip install .
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tf-mrsr"]
CMD ["--help"]

# docker build --target cpu -t tf_mrsr . && docker run --rm -v "$PWD:/data" tf_mrsr predict /data/scan.nii.gz ...
FROM python:3.12-slim AS cpu

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /opt/tf_mrsr
COPY setup.py pyproject.toml README.md LICENSE ./
COPY tf_mrsr tf_mrsr
COPY train train
COPY weights weights
RUN pip install .

USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tf-mrsr"]
CMD ["--help"]

# For a CPU: torch's build without CUDA. The root's Dockerfile is for GPUs.
#   docker build -t formgate:cpu -f deploy/cpu.Dockerfile .
#   docker run -p 8000:8000 -v formgate-cache:/cache formgate:cpu MODEL
# The arguments are those of `formgate serve`; without a model it serves the embedded one.
FROM python:3.12-slim AS build
RUN python -m venv /opt/formgate
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY constrain constrain
COPY parsers parsers
COPY engine engine
COPY kernels kernels
COPY embedded embedded
RUN /opt/formgate/bin/pip install --no-cache-dir \
        --index-url https://download.pytorch.org/whl/cpu "torch>=2.11,<2.14" \
    && /opt/formgate/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home formgate \
    && install -d -o formgate -g formgate /cache
COPY --from=build /opt/formgate /opt/formgate
# Downloads outlive the container in the volume.
ENV PATH=/opt/formgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface \
    XDG_CACHE_HOME=/cache
USER 10001:10001
WORKDIR /home/formgate
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
# A model may take minutes to download and load.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# As process 1 formgate is its own init: it reaps orphans and passes signals on.
ENTRYPOINT ["formgate", "serve", "--host", "0.0.0.0", "--port", "8000", "--device", "cpu"]

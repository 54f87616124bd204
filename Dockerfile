# docker build -t formgate . && docker run --gpus all -p 8000:8000 formgate --model MODEL
# The entry point takes the flags of `formgate serve`; without --model it serves the embedded one.
FROM python:3.12-slim
WORKDIR /opt/formgate
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY constrain constrain
COPY parsers parsers
COPY engine engine
COPY kernels kernels
COPY embedded embedded
# Triton builds its launcher with the C compiler at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir .
EXPOSE 8000
ENTRYPOINT ["python", "-m", "formgate.gateway", "--host", "0.0.0.0"]

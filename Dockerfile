# The gateway as an image. Mount a directory with servers.toml at /etc/gateway, and give one agent's key:
#   docker build -t gateway .
#   docker run --rm -p 8080:8080 -e GATEWAY_AGENT_KEY -v "$PWD/etc:/etc/gateway:ro" -v gateway:/var/lib/gateway gateway
FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements/runtime.txt requirements/build.in requirements/
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY gateway gateway
COPY policies policies
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir -r requirements/build.in \
 && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/gateway/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM python:3.13-slim
# By hand: not every slim image has useradd. By number: an orchestrator sees that it is not root.
RUN echo 'gateway:x:10001:10001::/var/lib/gateway:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'gateway:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY scripts/container/entry /usr/local/bin/gateway-entry
COPY scripts/container/servers.toml /etc/gateway/servers.toml
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_CONFIG=/etc/gateway/servers.toml
USER 10001:10001
WORKDIR /var/lib/gateway
VOLUME /var/lib/gateway
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["gateway-entry"]
CMD ["serve"]

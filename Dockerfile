# AIGW as one program on a small base, not as root and without a need to write.
#   docker build -t aigw . && docker run --read-only -p 10000:10000 -p 127.0.0.1:15000:15000 aigw
# For your fleet:
#   docker run --read-only -p 10000:10000 -v ./aigw.yaml:/etc/aigw/aigw.yaml:ro aigw serve --config aigw.yaml
# with `admin: {listen: 0.0.0.0:15000, …}` and its port where its page and metrics are wanted from outside; a gateway that
# listens elsewhere than on port 10000 is asked for its health by AIGW_HEALTH_URL.
ARG DENO_IMAGE=denoland/deno:2.9.6
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${DENO_IMAGE} AS build
WORKDIR /aigw
COPY deno.json deno.lock ./
COPY wasm wasm
COPY config config
COPY src src
RUN ["deno", "task", "compile"]

FROM ${BASE_IMAGE}
COPY --from=build /aigw/dist/aigw /usr/local/bin/aigw
WORKDIR /etc/aigw
USER 10001:10001
EXPOSE 10000 15000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["aigw", "health"]
ENTRYPOINT ["aigw"]
CMD ["demo", "--listen", "0.0.0.0:10000", "--admin", "0.0.0.0:15000"]

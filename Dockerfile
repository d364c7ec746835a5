# AIGW as one binary on a small base, not as root.
#   docker build -t aigw . && docker run -p 10000:10000 -v ./config:/etc/aigw:ro aigw
FROM denoland/deno:2.9.6 AS build
WORKDIR /aigw
COPY deno.json deno.lock ./
COPY src src
COPY wasm wasm
RUN deno task compile

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent aigw
COPY --from=build /aigw/dist/aigw /usr/local/bin/aigw
COPY config /etc/aigw
USER aigw
EXPOSE 10000
ENTRYPOINT ["aigw"]
# Without arguments: the demonstration with two mock engines inside. For your fleet:
#   docker run … aigw serve --config /etc/aigw/yours.yaml
CMD ["serve", "--config", "/etc/aigw/local.yaml", "--listen", "0.0.0.0:10000", "--mock-engines", "2"]

# docker build -t spo . && docker run --rm -v "$PWD:/work" spo recipe.toml
FROM rust:1-slim-bookworm AS build
WORKDIR /spo
COPY . .
RUN cargo build --release --locked --package spo-runtime

FROM debian:bookworm-slim
COPY --from=build /spo/target/release/spo-run /usr/local/bin/spo-run
# Paths in a recipe start here.
WORKDIR /work
ENTRYPOINT ["spo-run"]

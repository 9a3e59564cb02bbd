# The images of the database node, the operator and the kubectl plugin.
#
#   docker build --target node --tag crdb-node:dev .                 everything from source
#   docker build --target node-prebuilt --tag crdb-node:dev DIR      DIR holds this file and programs
#
# BASE is what programs run on: it needs the C and C++ libraries and certificates, and no shell.
# Nothing here needs BuildKit: the classic builder builds every stage above the target, so the stages
# with prebuilt programs stand first.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
ARG RUST=docker.io/library/rust:1-bookworm

FROM ${BASE} AS node-prebuilt
LABEL org.opencontainers.image.title="crdb-node" \
      org.opencontainers.image.description="A node of the distributed SQL database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY crdb /usr/local/bin/crdb
USER 65532:65532
EXPOSE 26257 26258 8080
ENTRYPOINT ["/usr/local/bin/crdb"]

FROM ${BASE} AS operator-prebuilt
LABEL org.opencontainers.image.title="crdb-operator" \
      org.opencontainers.image.description="The Kubernetes operator of the database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY crdb-operator /usr/local/bin/crdb-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/crdb-operator"]

FROM ${BASE} AS plugin-prebuilt
LABEL org.opencontainers.image.title="kubectl-crdb" \
      org.opencontainers.image.description="The kubectl plugin of the database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY kubectl-crdb /usr/local/bin/kubectl-crdb
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kubectl-crdb"]

FROM ${RUST} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libclang-dev cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package crdb --package crdb-operator --package kubectl-crdb \
 && strip target/release/crdb target/release/crdb-operator target/release/kubectl-crdb

FROM ${BASE} AS node
LABEL org.opencontainers.image.title="crdb-node" \
      org.opencontainers.image.description="A node of the distributed SQL database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/crdb /usr/local/bin/crdb
USER 65532:65532
EXPOSE 26257 26258 8080
ENTRYPOINT ["/usr/local/bin/crdb"]

FROM ${BASE} AS operator
LABEL org.opencontainers.image.title="crdb-operator" \
      org.opencontainers.image.description="The Kubernetes operator of the database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/crdb-operator /usr/local/bin/crdb-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/crdb-operator"]

FROM ${BASE} AS plugin
LABEL org.opencontainers.image.title="kubectl-crdb" \
      org.opencontainers.image.description="The kubectl plugin of the database crdb" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/kubectl-crdb /usr/local/bin/kubectl-crdb
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kubectl-crdb"]

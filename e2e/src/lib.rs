//! End-to-end tests of the product, each in its own test program under `tests/`: `process` runs nodes
//! as plain processes, `operator` the operator on an API server with a played kubelet, `kubernetes`
//! the charts, the operator and the database on a real Kubernetes. The library itself is empty: the
//! programs share nothing but their dependencies.

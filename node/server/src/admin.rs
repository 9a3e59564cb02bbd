//! The gRPC service `crdb.admin.v1.Admin`.

use std::sync::Arc;

use crdb_proto::admin::admin_server::{Admin, AdminServer};
use crdb_proto::admin::{ClusterStatusRequest, ClusterStatusResponse, InitRequest, InitResponse};
use futures::future::BoxFuture;
use tonic::{Request, Response, Status};

/// What the service asks the node.
pub(crate) trait AdminSource: Send + Sync + 'static {
    /// Makes the cluster, or confirms that it is the one named.
    fn init(
        self: Arc<Self>,
        cluster_id: String,
    ) -> BoxFuture<'static, Result<InitResponse, Status>>;

    /// What the cluster looks like from here.
    fn cluster_status(&self) -> ClusterStatusResponse;
}

pub(crate) struct AdminService<S>(Arc<S>);

impl<S: AdminSource> AdminService<S> {
    pub(crate) fn server(source: Arc<S>) -> AdminServer<Self> {
        AdminServer::new(Self(source))
    }
}

#[tonic::async_trait]
impl<S: AdminSource> Admin for AdminService<S> {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        let id = request.into_inner().cluster_id;
        Arc::clone(&self.0).init(id).await.map(Response::new)
    }

    async fn cluster_status(
        &self,
        _request: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        Ok(Response::new(self.0.cluster_status()))
    }
}

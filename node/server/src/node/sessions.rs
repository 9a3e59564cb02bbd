//! The SQL sessions of the other nodes: asked on a connection made for the question, as nobody asks
//! often.

use std::sync::Arc;

use crdb_keys::NodeId;
use crdb_proto::peer::peer_client::PeerClient;
use crdb_proto::peer::{CancelSqlRequest, Hello, ListSqlSessionsRequest, SqlSession};
use crdb_sql::{SessionPeers, Target};
use futures::future::BoxFuture;
use tonic::Status;
use tonic::transport::Channel;

use crate::cluster_view::ClusterView;
use crate::limits::Limits;
use crate::peer::{Identity, PeerBook as _, hello::hello, one_shot};

/// Asks other nodes for their sessions.
pub(crate) struct PeerSessions {
    own: Identity,
    view: Arc<ClusterView>,
    limits: Limits,
}

impl PeerSessions {
    pub(crate) fn new(own: Identity, view: Arc<ClusterView>, limits: Limits) -> Self {
        Self { own, view, limits }
    }

    async fn ask<T, F>(
        &self,
        node: NodeId,
        call: impl FnOnce(PeerClient<Channel>, Hello) -> F + Send,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>> + Send,
    {
        let peer = self.view.peer_address(node);
        let peer = peer.ok_or_else(|| format!("the address of {node} is not known"))?;
        let greeting = hello(&self.own, node, &peer.store_uuid);
        let answer = one_shot(&peer.address, &self.limits, |client| call(client, greeting));
        let patience = self.limits.sessions_timeout;
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|status| status.message().to_owned()),
            Err(_) => Err(format!("{node} did not answer within {} s", patience.as_secs())),
        }
    }
}

impl SessionPeers for PeerSessions {
    fn nodes(&self) -> Vec<NodeId> {
        self.view.peers(self.own.node_id)
    }

    fn sessions(&self, node: NodeId) -> BoxFuture<'_, Result<Vec<SqlSession>, String>> {
        Box::pin(async move {
            let answer = self.ask(node, |mut client, greeting| async move {
                let request = ListSqlSessionsRequest { hello: Some(greeting) };
                client.list_sql_sessions(request).await
            });
            Ok(answer.await?.sessions)
        })
    }

    fn cancel(&self, node: NodeId, target: Target) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move {
            let (id, session) = match target {
                Target::Query(id) => (id, false),
                Target::Session(id) => (id, true),
            };
            let answer = self.ask(node, |mut client, greeting| async move {
                let id = id.to_be_bytes().to_vec().into();
                let request = CancelSqlRequest { hello: Some(greeting), id, session };
                client.cancel_sql(request).await
            });
            Ok(answer.await?.found)
        })
    }
}

//! Sends one snapshot over a connection of its own.

use crdb_keys::NodeId;
use crdb_proto::peer::SnapshotFrame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::dial::dial_any;
use super::{Identity, PeerBook, hello};
use crate::limits::Limits;

pub(super) async fn send(
    to: NodeId,
    own: &Identity,
    book: &dyn PeerBook,
    mut frames: mpsc::Receiver<SnapshotFrame>,
    limits: &Limits,
) -> Result<(), String> {
    let peer = book.peer_address(to).ok_or_else(|| format!("no address of {to} is known"))?;
    let mut client = dial_any(&peer.address, limits).await?;
    let (outbound, stream) = mpsc::channel(limits.snapshot_frames);
    let greeting = hello::hello(own, to, &peer.store_uuid);
    let opening = SnapshotFrame { hello: Some(greeting), ..SnapshotFrame::default() };
    let feed = async {
        if outbound.send(opening).await.is_err() {
            return;
        }
        while let Some(frame) = frames.recv().await {
            if outbound.send(frame).await.is_err() {
                return;
            }
        }
        drop(outbound);
    };
    let call = client.snapshot(ReceiverStream::new(stream));
    let call = tokio::time::timeout(limits.snapshot_timeout, call);
    let ((), result) = tokio::join!(feed, call);
    let result = result.map_err(|_| format!("{to} did not take the snapshot in time"))?;
    let result = result.map_err(|status| status.message().to_owned())?.into_inner();
    if result.accepted { Ok(()) } else { Err(result.message) }
}

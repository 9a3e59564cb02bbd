//! The catalog a cluster starts with.

use bytes::Bytes;
use crdb_keys::{Key, layout};

use super::desc::{DatabaseDesc, DescState, VersionRecord};

/// The database of a client that names none.
pub const DEFAULT_DATABASE: &str = "defaultdb";
/// The first id of a user's table or database.
pub const FIRST_USER_ID: u64 = 104;

/// Parent of the names of databases.
pub(super) const ROOT: u64 = 0;

/// The keys and values that the bootstrapper writes into the system range.
#[must_use]
pub fn bootstrap() -> Vec<(Key, Bytes)> {
    let record = VersionRecord { version: 1, next_id: FIRST_USER_ID, recent: Vec::new() };
    let mut pairs = vec![(layout::catalog_version_key(), record.encode())];
    for (id, name) in [(1, "system"), (100, DEFAULT_DATABASE), (102, "postgres")] {
        let desc = DatabaseDesc {
            id,
            name: name.to_owned(),
            state: DescState::Public,
            modified: 1,
            modified_nanos: 0,
        };
        pairs.push((layout::namespace_key(ROOT, name), Bytes::copy_from_slice(&id.to_be_bytes())));
        pairs.push((layout::descriptor_key(id), desc.encode()));
    }
    pairs
}

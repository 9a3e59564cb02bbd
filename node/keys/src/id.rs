//! Newtypes for the identifiers of nodes, stores, ranges and replicas.

use std::fmt;

macro_rules! id {
    ($name:ident, $repr:ty, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            /// The number without its prefix.
            #[must_use]
            pub fn get(self) -> $repr {
                self.0
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(NodeId, u32, "n", "A process of the cluster; numbered from 1, never reused.");
id!(StoreId, u32, "s", "A data directory of a node; equal to the node's number with one store.");
id!(RangeId, u64, "r", "A contiguous span of keys, the unit of replication; numbered from 1.");
id!(ReplicaId, u64, "", "One copy of a range; rises within its range, never reused.");

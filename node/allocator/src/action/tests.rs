//! Runs the golden scripts of the allocator.

use std::{error::Error, fmt::Write as _, path::Path};

use crdb_keys::NodeId;
use test_each_file::test_each_path;

use super::*;
use crate::StoreStatus;

test_each_path! { in "node/allocator/testscripts" as scripts => run_script }

fn run_script(path: &Path) {
    goldenscript::run(&mut World::default(), path).expect("script failed");
}

/// One range and the stores around it.
#[derive(Default)]
struct World {
    stores: Vec<StoreInfo>,
    range: RangeDescriptor,
    progress: Progress,
}

impl World {
    fn store(&mut self, id: &str) -> Result<&mut StoreInfo, Box<dyn Error>> {
        let id = parse_store(id)?;
        Ok(self.stores.iter_mut().find(|store| store.store_id == id).ok_or("no such store")?)
    }

    fn set_type(&mut self, store: StoreId, kind: ReplicaType) {
        for replica in &mut self.range.replicas {
            if replica.store_id == store.get() {
                replica.set_type(kind);
            }
        }
    }

    fn set_range(
        &mut self,
        args: &mut goldenscript::ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn Error>> {
        let leaseholder = parse_store(args.take_key("lease").unwrap_or("s1"))?;
        self.progress = Progress { leaseholder, ..Progress::default() };
        let mut others = Vec::new();
        for (key, kind) in [
            ("learner", ReplicaType::Learner),
            ("incoming", ReplicaType::VoterIncoming),
            ("outgoing", ReplicaType::VoterOutgoing),
        ] {
            others.extend(args.take_key(key).map(|store| (store, kind)));
        }
        let mut replicas = Vec::new();
        while let Some(store) = args.next_pos() {
            replicas.push((store, ReplicaType::Voter));
        }
        self.range = RangeDescriptor::default();
        for (store, kind) in replicas.into_iter().chain(others) {
            let store = parse_store(store)?;
            self.range.next_replica_id += 1;
            self.range.replicas.push(ReplicaDescriptor {
                node_id: store.get(),
                store_id: store.get(),
                replica_id: self.range.next_replica_id,
                r#type: kind.into(),
            });
        }
        Ok(())
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::None => {}
            Action::AddLearner(store) => {
                self.range.next_replica_id += 1;
                self.range.replicas.push(ReplicaDescriptor {
                    node_id: store.get(),
                    store_id: store.get(),
                    replica_id: self.range.next_replica_id,
                    r#type: ReplicaType::Learner.into(),
                });
                self.progress.caught_up.insert(*store);
            }
            Action::Promote { promote, demote } => {
                promote.iter().for_each(|s| self.set_type(*s, ReplicaType::VoterIncoming));
                demote.iter().for_each(|s| self.set_type(*s, ReplicaType::VoterOutgoing));
            }
            Action::LeaveJoint => {
                for replica in &mut self.range.replicas {
                    match replica.r#type() {
                        ReplicaType::VoterIncoming => replica.set_type(ReplicaType::Voter),
                        ReplicaType::VoterOutgoing => replica.set_type(ReplicaType::Learner),
                        ReplicaType::Voter | ReplicaType::Learner => {}
                    }
                }
            }
            Action::RemoveLearner(store) => {
                self.range.replicas.retain(|replica| replica.store_id != store.get());
            }
            Action::TransferLease(store) => self.progress.leaseholder = *store,
        }
    }

    fn describe(&self) -> String {
        let mut out = String::new();
        for replica in &self.range.replicas {
            let kind = match replica.r#type() {
                ReplicaType::Voter => "voter",
                ReplicaType::Learner => "learner",
                ReplicaType::VoterIncoming => "incoming",
                ReplicaType::VoterOutgoing => "outgoing",
            };
            let lease =
                if replica.store_id == self.progress.leaseholder.get() { " lease" } else { "" };
            write!(out, "s{}:{kind}{lease} ", replica.store_id).expect("strings take all");
        }
        out.trim_end().to_owned()
    }
}

fn parse_store(text: &str) -> Result<StoreId, Box<dyn Error>> {
    Ok(StoreId(text.strip_prefix('s').ok_or("stores are written s1")?.parse()?))
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        match command.name.as_str() {
            // store s1 locality=region:eu,zone:a replicas=3
            "store" => {
                let id = parse_store(args.next_pos().ok_or("which store?")?)?;
                let locality = args
                    .take_key("locality")
                    .unwrap_or_default()
                    .split(',')
                    .filter_map(|tier| tier.split_once(':'))
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect();
                let replicas = args.take_key("replicas").map_or(Ok(0), str::parse)?;
                self.stores.push(StoreInfo {
                    store_id: id,
                    node_id: NodeId(id.get()),
                    locality,
                    status: StoreStatus::Live,
                    draining: false,
                    decommissioning: false,
                    replicas,
                });
            }
            // range s1 s2 s3 learner=s4 incoming=s5 outgoing=s6 lease=s1
            "range" => self.set_range(&mut args)?,
            "status" => {
                let id = args.next_pos().ok_or("which store?")?;
                let status = args.next_pos().ok_or("which status?")?;
                let store = self.store(id)?;
                match status {
                    "live" => store.status = StoreStatus::Live,
                    "suspect" => store.status = StoreStatus::Suspect,
                    "dead" => store.status = StoreStatus::Dead,
                    "draining" => store.draining = true,
                    "decommissioning" => store.decommissioning = true,
                    _ => return Err("unknown status".into()),
                }
            }
            // caught-up s1 s2
            "caught-up" => {
                while let Some(store) = args.next_pos() {
                    self.progress.caught_up.insert(parse_store(store)?);
                }
            }
            "action" => {
                let action = next_action(&self.range, &self.progress, &self.stores);
                writeln!(out, "{action}")?;
            }
            "plan" => {
                for _ in 0..20 {
                    let action = next_action(&self.range, &self.progress, &self.stores);
                    writeln!(out, "{action}")?;
                    if action == Action::None {
                        break;
                    }
                    self.apply(&action);
                }
                writeln!(out, "{}", self.describe())?;
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        Ok(out)
    }
}

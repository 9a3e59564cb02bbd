//! `pgbench` on three nodes beside PostgreSQL with two standbys, and what a transaction costs in
//! rounds of consensus and syncs. `cargo xtask bench --pgbench` builds optimised programs and runs it.
//!
//! Both systems run on this machine, one measured after the other, in turns; the other one is idle
//! meanwhile. Servers and clients share the processors, so transactions per second say less than the
//! processor time of the servers for each transaction. A commit of PostgreSQL waits for one of its
//! standbys, as a commit of ours waits for one of two followers; nothing is unsynced in either.
#![expect(clippy::print_stdout, reason = "the report is the purpose of this program")]

mod count;
mod load;
mod server;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::load::{Measured, Mode, Script};
use crate::server::{Place, Servers};

/// What is measured.
#[derive(Debug, Parser)]
struct Args {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Size of the tables, in branches of 100,000 accounts
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Clients at once
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    clients: Vec<u32>,
    /// Scripts
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "tpcb,simple-update,select-only"
    )]
    scripts: Vec<Script>,
    /// Protocols
    #[arg(long, value_delimiter = ',', value_enum, default_value = "simple,extended,prepared")]
    modes: Vec<Mode>,
    /// How often all is measured, in turns
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Only count rounds of consensus and syncs
    #[arg(long)]
    count_only: bool,
    /// Write the figures as JSON, too
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args = Args::parse();
    let ours = Servers::crdb().await?;
    println!("crdb: fill tables of scale {} ...", args.scale);
    ours.fill(args.scale).await.context("fill the tables of crdb")?;
    ours.gather_leases().await.context("gather the leases")?;
    count::all(&ours).await.context("count")?;
    if args.count_only {
        return Ok(());
    }
    let theirs = Servers::postgres().await?;
    println!("PostgreSQL: fill tables of scale {} ...", args.scale);
    theirs.fill(args.scale).await.context("fill the tables of PostgreSQL")?;
    let mut measured = Vec::new();
    println!("{}", load::heading());
    for round in 0..args.rounds {
        for script in &args.scripts {
            for mode in &args.modes {
                for clients in &args.clients {
                    let run = load::Run {
                        script: *script,
                        mode: *mode,
                        clients: *clients,
                        seconds: args.seconds,
                        scale: args.scale,
                    };
                    // A B B A over the rounds.
                    let mut turns =
                        [(&theirs, Place::First), (&ours, Place::First), (&ours, Place::Spread)];
                    if round % 2 == 1 {
                        turns.reverse();
                    }
                    let mut rows = Vec::new();
                    for (servers, place) in turns {
                        rows.push(load::measure(servers, place, &run).await?);
                    }
                    print_rows(&rows);
                    measured.extend(rows);
                }
            }
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&measured)?)?;
    }
    Ok(())
}

fn print_rows(rows: &[Measured]) {
    let peer = rows.iter().find(|row| row.system == "PostgreSQL").map(|row| row.cpu_us);
    for row in rows {
        println!("{}", row.line(peer));
    }
}

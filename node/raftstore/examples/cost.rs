//! Measures.
#[path = "../tests/cluster/mod.rs"]
mod cluster;
use cluster::{Cluster, put};
use std::time::Duration;
fn main() {
    let mut c = Cluster::of_three();
    c.run(Duration::from_secs(2));
    for clients in [1u32, 16, 64, 256] {
        let t = std::time::Instant::now();
        let mut done = 0u32;
        let mut n = 0u32;
        let total = 20000;
        let mut open = Vec::new();
        while done < total {
            while open.len() < clients as usize && n < total {
                n += 1;
                open.push(c.call(1, put(&format!("k{}", n % 1000), &"x".repeat(256))));
            }
            c.run(Duration::from_millis(1));
            open.retain(|id| match c.responses.remove(id) { Some(r) => { assert!(r.error.is_none(), "{r:?}"); done += 1; false } None => true });
        }
        println!("{clients} clients: {:.1} us/op", t.elapsed().as_secs_f64() * 1e6 / f64::from(total));
    }
}

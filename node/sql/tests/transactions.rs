//! Runs the scripts of `testscripts/transactions/`: statements of several sessions, one a line, and
//! what they answer in the `.out` file beside. `UPDATE_EXPECT=1` rewrites the answers.
//!
//! ```text
//! a> UPDATE t SET v = 1 WHERE k = 1      runs to its end
//! b& UPDATE t SET v = 2 WHERE k = 1      starts, and has to wait for somebody
//! b.                                     runs what was started to its end
//! advance 100                            moves the clock by milliseconds
//! watch 600                              lets waiting statements go on for a while
//! down 0, up 0                           cuts a gateway off, and takes it back
//! ```
//!
//! Each letter is a session of its own, on a gateway of its own.

#![expect(clippy::disallowed_methods, reason = "a test that hangs should fail after some time")]
#![expect(clippy::indexing_slicing, reason = "a test that is out of bounds should fail")]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crdb_sql::Session;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{Cluster, run, show};

/// How long a statement that has to wait is watched for not ending.
const WATCH: Duration = Duration::from_millis(30);
/// How long any other may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A session, or the statement it runs.
enum Seat {
    Free(Box<Session>),
    Busy(BoxFuture<'static, (Box<Session>, String)>),
    /// Ended while another was waited for.
    Done(Box<Session>, String),
}

struct Sessions {
    seats: BTreeMap<String, Seat>,
}

async fn answer(mut session: Box<Session>, statement: String) -> (Box<Session>, String) {
    let result = run(&mut session, &statement).await;
    let mut text = String::new();
    if result.is_err() {
        let notices = session.take_notices();
        text.extend(notices.iter().map(|notice| format!("NOTICE: {}\n", notice.message)));
    }
    text.push_str(&show(&session, &result));
    (session, text)
}

impl Sessions {
    /// Lets every running statement go on a little.
    fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for seat in self.seats.values_mut() {
            if let Seat::Busy(future) = seat
                && let Poll::Ready((session, text)) = future.as_mut().poll(&mut cx)
            {
                *seat = Seat::Done(session, text);
            }
        }
        std::thread::yield_now();
    }

    fn start(&mut self, cluster: &Cluster, name: &str, statement: &str) {
        let session = match self.seats.remove(name) {
            None => Box::new(cluster.session(self.seats.len() % cluster.nodes.len())),
            Some(Seat::Free(session)) => session,
            Some(_) => panic!("{name} still runs a statement when it gets {statement}"),
        };
        let running = answer(session, statement.trim_end_matches(';').to_owned()).boxed();
        self.seats.insert(name.to_owned(), Seat::Busy(running));
    }

    /// The answer of a session's statement, once it has ended; none if it takes longer.
    fn wait(&mut self, name: &str, limit: Duration) -> Option<String> {
        let started = Instant::now();
        loop {
            self.poll();
            if matches!(self.seats.get(name), Some(Seat::Done(..))) {
                let Some(Seat::Done(session, text)) = self.seats.remove(name) else { return None };
                self.seats.insert(name.to_owned(), Seat::Free(session));
                return Some(text);
            }
            if started.elapsed() > limit {
                return None;
            }
        }
    }
}

fn script(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/transactions");
    let input = std::fs::read_to_string(dir.join(format!("{name}.sql"))).expect("the script");
    let cluster = Cluster::new(3);
    let mut sessions = Sessions { seats: BTreeMap::new() };
    let mut out = String::new();
    for line in input.lines() {
        out.push_str(&format!("{line}\n"));
        if line.trim().is_empty() || line.starts_with("--") {
            continue;
        }
        if let Some((name, statement)) = line.split_once("> ") {
            sessions.start(&cluster, name, statement);
            let text = sessions.wait(name, DEADLINE);
            out.push_str(&text.unwrap_or_else(|| panic!("{line}: it never ends\n{out}")));
        } else if let Some((name, statement)) = line.split_once("& ") {
            sessions.start(&cluster, name, statement);
            if let Some(text) = sessions.wait(name, WATCH) {
                panic!("{line}: it did not wait\n{out}{text}");
            }
        } else if let Some(name) = line.strip_suffix('.') {
            let text = sessions.wait(name, DEADLINE);
            out.push_str(&text.unwrap_or_else(|| panic!("{line}: it never ends\n{out}")));
        } else if let Some((to, gateway)) = line.split_once(' ')
            && let "down" | "up" = to
        {
            let gateway: usize = gateway.parse().expect("the number of a gateway");
            cluster.down[gateway].store(to == "down", Ordering::Relaxed);
            harness::block_on(cluster.heartbeat());
        } else if let Some(millis) = line.strip_prefix("watch ") {
            let until = Instant::now() + Duration::from_millis(millis.parse().expect("millis"));
            while Instant::now() < until {
                sessions.poll();
            }
        } else if let Some(millis) = line.strip_prefix("advance ") {
            cluster.advance(Duration::from_millis(millis.parse().expect("milliseconds")));
            harness::block_on(cluster.heartbeat());
        } else {
            panic!("not a step: {line}");
        }
    }
    expect_test::expect_file![dir.join(format!("{name}.out"))].assert_eq(&out);
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            script(stringify!($name));
        })*
    };
}

scripts! { catalog states conflicts locking savepoints read_committed modes as_of implicit activity }

//! One stream: a session that runs the transactions of a generator on a table of its own, and compares
//! the table with the model after each.
//!
//! ```text
//! script ──> attempt ──> committed / rolled back ──> compare ──> next
//!               │  ├───> 40001: the whole transaction again
//!               │  └───> failed for certain: compare with what was before
//!               └──────> unknown: read it. All of it is there, or nothing: then it may still come,
//!                        and the stream goes on with another table
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, timeout};

use super::compare::{Seen, States, differences};
use super::generate::{Generator, NUMBERS, Script, Step};
use super::model::{Expected, Summary, Table};
use super::statement::{Dialect, Keys, Sql, contents_of, summary_of};
use super::{Shared, SqlState};
use crate::session::{Failure, Row, Session, Style};

/// A transaction that has not ended by then is given up.
const ATTEMPT: Duration = Duration::from_secs(120);
/// So often a transaction is run that has to be run again.
const ATTEMPTS: u32 = 12;
/// What is read after a transaction is tried for so long, at one node after the other.
const PATIENCE: Duration = Duration::from_secs(90);
/// Who cannot connect, or has to begin again, waits so long.
const AGAIN: Duration = Duration::from_millis(100);
/// The contents are compared after so many transactions, otherwise the summary.
const CONTENTS_EVERY: u64 = 8;
/// So many transactions are shown with a finding.
const SHOWN: usize = 4;
/// Of one with more statements than twice this the first and the last are shown.
const SHOWN_LINES: usize = 6;

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// Its COMMIT was acknowledged.
    Committed,
    /// It was taken back, or refused, as it should be.
    RolledBack,
    /// It has failed for certain.
    Failed(Failure),
    /// Nobody knows.
    Unknown(Failure),
    /// An answer was wrong.
    Wrong(String),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fail(_) => Ended::Failed(failure),
            Failure::Info(_) => Ended::Unknown(failure),
        }
    }
}

/// What came back for a statement.
#[derive(Clone, Debug)]
enum Answer {
    Changed(u64),
    Rows(Vec<Row>),
}

/// Whether an answer is that of the model.
fn judge(step: &Step, answer: Result<Answer, Failure>) -> Result<(), Ended> {
    let wrong = |what: String| Err(Ended::Wrong(what));
    match (&step.expected, answer) {
        (Expected::Refused(state), Err(failure)) if failure.state() == Some(state) => Ok(()),
        (_, Err(failure)) => Err(failure.into()),
        (Expected::Refused(state), Ok(_)) => {
            wrong(format!("a statement succeeded that has to fail with {state}"))
        }
        (Expected::Done, Ok(_)) => Ok(()),
        (Expected::Changed(expected), Ok(Answer::Changed(changed))) => {
            if changed == *expected {
                return Ok(());
            }
            wrong(format!("a statement reports {changed} rows where the model changes {expected}"))
        }
        (Expected::Summary(expected), Ok(Answer::Rows(rows))) => match summary(&rows) {
            Ok(seen) if seen == *expected => Ok(()),
            seen => wrong(format!("within its transaction: {seen:?}, not {expected:?}")),
        },
        (expected, Ok(answer)) => wrong(format!("the answer {answer:?} to {expected:?}")),
    }
}

/// Reads the row of a summary.
pub(super) fn summary(rows: &[Row]) -> Result<Summary, Failure> {
    let row = rows.first().ok_or_else(|| Failure::Info("a count without a row".to_owned()))?;
    let number = |column| u64::try_from(row.int(column)?).map_err(|_| negative(row));
    Ok(Summary { count: number(0)?, numbers: row.int(1)?, lengths: number(2)? })
}

fn negative(row: &Row) -> Failure {
    Failure::Info(format!("a negative number in {row:?}"))
}

fn contents(rows: &[Row], keys: Keys) -> Result<Vec<Seen>, Failure> {
    let seen = |row: &Row| {
        let (t, from) = match keys {
            Keys::Short => (String::new(), 1),
            Keys::Long => (row.text(1).to_owned(), 2),
        };
        Ok(Seen { k: row.int(0)?, t, n: row.int(from)?, v: row.text(from + 1).to_owned() })
    };
    rows.iter().map(seen).collect()
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    states: Arc<States>,
    generator: Generator,
    /// Which node is asked, and how.
    rng: StdRng,
    name: String,
    /// How many tables were given up.
    abandoned: u32,
    table: String,
    held: Table,
    transactions: u64,
    /// Everything that was run on the table.
    log: Vec<String>,
    recent: VecDeque<String>,
}

impl Stream {
    /// A stream whose first table, `name`, is there and empty.
    pub(super) fn new(shared: Arc<Shared>, states: Arc<States>, name: &str, seed: u64) -> Stream {
        let mut rng = StdRng::seed_from_u64(seed);
        let keys = if rng.random_bool(0.5) { Keys::Short } else { Keys::Long };
        let refuses = shared.dialect == Dialect::Crdb;
        let generator = Generator::new(rng.random(), keys, refuses).divided_by(shared.part);
        states.restart(name);
        Stream {
            shared,
            states,
            generator,
            rng,
            name: name.to_owned(),
            abandoned: 0,
            table: name.to_owned(),
            held: Table::default(),
            transactions: 0,
            log: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// How its rows are keyed.
    pub(super) fn keys(&self) -> Keys {
        self.generator.keys()
    }

    /// Runs until the run is over or something is wrong.
    pub(super) async fn run(mut self) {
        let mut session: Option<Session> = None;
        while !self.shared.is_over() {
            let Some(open) = self.ready(session.take()).await else { continue };
            let (kept, found) = self.transaction(open).await;
            session = kept;
            if let Err(finding) = found {
                self.report(&finding);
                return;
            }
        }
        for node in 0..self.shared.ports.len() {
            if let Err(finding) = self.compare_contents(Some(node)).await {
                self.report(&format!("in the end, at node {}: {finding}", node + 1));
                return;
            }
        }
    }

    /// A session that can be used, now and then another.
    async fn ready(&mut self, session: Option<Session>) -> Option<Session> {
        if let Some(session) = session.filter(Session::is_clean)
            && !self.rng.random_bool(0.02)
        {
            return Some(session);
        }
        let node = self.rng.random_range(0..self.shared.ports.len());
        let style = if self.rng.random_bool(0.5) { Style::Simple } else { Style::Prepared };
        let level = if self.rng.random_bool(0.5) { "serializable" } else { "read committed" };
        let opened = async {
            let mut session = self.shared.connect(node, style).await?;
            let set = format!("SET default_transaction_isolation = '{level}'");
            session.execute_text(&set).await?;
            Ok::<_, Failure>(session)
        };
        match timeout(ATTEMPT, opened).await {
            Ok(Ok(session)) => Some(session),
            _ => {
                tokio::time::sleep(AGAIN).await;
                None
            }
        }
    }

    /// Runs the next transaction to its end and compares.
    async fn transaction(&mut self, session: Session) -> (Option<Session>, Result<(), String>) {
        let mut session = Some(session);
        if self.shared.dialect == Dialect::Crdb && self.rng.random_bool(0.05) {
            self.split(&mut session).await;
        }
        let script = self.generator.next(&self.held);
        self.states.propose(script.after.summary());
        let began = Instant::now();
        let ended = self.repeat(&mut session, &script).await;
        self.note(&script, &ended, began.elapsed());
        self.shared.tally.lock().count(&script, matches!(ended, Ended::Committed));
        (session, self.conclude(script, ended).await)
    }

    /// Compares after a transaction.
    async fn conclude(&mut self, script: Script, ended: Ended) -> Result<(), String> {
        match ended {
            Ended::Committed => {
                self.shared.tally.lock().ended += 1;
                self.held = script.after;
                self.states.acknowledge();
            }
            Ended::RolledBack => {
                self.shared.tally.lock().ended += 1;
                self.states.withdraw();
            }
            Ended::Failed(failure) => {
                self.shared.tally.lock().failed += 1;
                self.states.withdraw();
                self.allow(&failure)?;
            }
            Ended::Unknown(failure) => {
                self.shared.tally.lock().unknown += 1;
                self.allow(&failure)?;
                return self.learn(script.after, &failure).await;
            }
            Ended::Wrong(what) => return Err(what),
        }
        self.transactions += 1;
        if self.transactions.is_multiple_of(CONTENTS_EVERY) {
            self.compare_contents(None).await
        } else {
            self.compare_summary().await
        }
    }

    /// Runs a transaction, and again as long as it has to be.
    async fn repeat(&mut self, session: &mut Option<Session>, script: &Script) -> Ended {
        let mut attempts = 0;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(mut open) = session.take() else {
                if Instant::now() > deadline {
                    return Ended::Failed(Failure::Fail(format!("no session in {PATIENCE:?}")));
                }
                *session = self.ready(None).await;
                continue;
            };
            attempts += 1;
            let ended = match timeout(ATTEMPT, self.attempt(&mut open, script)).await {
                Ok(Ok(ended)) | Ok(Err(ended)) => ended,
                Err(_) => open.interrupted(&format!("no answer in {ATTEMPT:?}")).into(),
            };
            let may_go_on =
                matches!(ended, Ended::Committed | Ended::RolledBack | Ended::Failed(_));
            if may_go_on && (open.is_clean() || rolled_back(&mut open).await) {
                *session = Some(open);
            }
            match &ended {
                Ended::Failed(failure) if failure.state() == Some(SqlState::RESTART) => {
                    self.shared.tally.lock().restarts += 1;
                    if attempts == ATTEMPTS {
                        return ended;
                    }
                    tokio::time::sleep(AGAIN * attempts).await;
                }
                _ => return ended,
            }
        }
    }

    async fn attempt(&self, session: &mut Session, script: &Script) -> Result<Ended, Ended> {
        if let Some(isolation) = script.isolation {
            session.begin_at(isolation).await?;
        }
        for step in &script.steps {
            let answer = self.perform(session, step).await;
            judge(step, answer)?;
        }
        if script.isolation.is_none() {
            return Ok(if script.commits { Ended::Committed } else { Ended::RolledBack });
        }
        if script.commits {
            session.commit().await?;
            return Ok(Ended::Committed);
        }
        session.rollback().await?;
        Ok(Ended::RolledBack)
    }

    async fn perform(&self, session: &mut Session, step: &Step) -> Result<Answer, Failure> {
        let sql = step.statement.sql(&self.table, self.generator.keys(), self.shared.dialect);
        match sql {
            Sql::Text(sql) if matches!(step.expected, Expected::Summary(_)) => {
                Ok(Answer::Rows(session.rows_of_text(&sql).await?))
            }
            Sql::Text(sql) => Ok(Answer::Changed(session.execute_text(&sql).await?)),
            Sql::Parameters(sql, values) => {
                Ok(Answer::Changed(session.execute(&sql, &values).await?))
            }
            Sql::Copy(sql, data) => Ok(Answer::Changed(session.copy(&sql, data).await?)),
        }
    }

    /// Splits the table somewhere. It does not matter whether that succeeds.
    async fn split(&mut self, session: &mut Option<Session>) {
        let Some(mut open) = session.take() else { return };
        let (table, k) = (&self.table, self.rng.random_range(0..NUMBERS));
        let sql = format!("ALTER TABLE {table} SPLIT AT VALUES ({k})");
        if let Ok(Ok(_)) = timeout(ATTEMPT, open.rows_of_text(&sql)).await {
            self.shared.tally.lock().splits += 1;
            self.log.push(sql);
            *session = Some(open);
        }
    }

    /// A transaction of unknown outcome is there as a whole or not at all.
    async fn learn(&mut self, after: Table, failure: &Failure) -> Result<(), String> {
        let seen = self.read_contents(None).await?;
        let keys = self.generator.keys();
        let is_after = differences(&after, keys, &seen);
        let is_before = differences(&self.held, keys, &seen);
        match (is_before, is_after) {
            (Some(before), Some(after)) => Err(format!(
                "a transaction of unknown outcome ({failure}) is there in part: from before it \
                 {before}; from after it {after}"
            )),
            (Some(_), None) => {
                self.held = after;
                self.states.acknowledge();
                Ok(())
            }
            // It may still come, whenever it likes.
            (None, _) => self.abandon().await,
        }
    }

    async fn abandon(&mut self) -> Result<(), String> {
        self.abandoned += 1;
        self.table = format!("{}_{}", self.name, self.abandoned);
        let create = format!("CREATE TABLE {} ({})", self.table, self.keys().columns());
        let made = self.shared.clients.set_up(&[create]).await;
        made.map_err(|error| format!("{error:#}"))?;
        self.held = Table::default();
        self.states.restart(&self.table);
        self.log.clear();
        Ok(())
    }

    async fn compare_summary(&mut self) -> Result<(), String> {
        let rows = self.ask(None, &summary_of(&self.table)).await?;
        let (seen, expected) =
            (summary(&rows).map_err(|error| error.to_string())?, self.held.summary());
        self.shared.tally.lock().rows_compared += expected.count;
        if seen == expected {
            return Ok(());
        }
        let contents = self.compare_contents(None).await.err();
        let contents = contents.unwrap_or_else(|| "all rows are right when read again".to_owned());
        Err(format!("{seen:?}, not {expected:?}: {contents}"))
    }

    async fn compare_contents(&mut self, node: Option<usize>) -> Result<(), String> {
        let seen = self.read_contents(node).await?;
        self.shared.tally.lock().rows_compared += seen.len() as u64;
        match differences(&self.held, self.generator.keys(), &seen) {
            Some(differences) => Err(differences),
            None => Ok(()),
        }
    }

    async fn read_contents(&mut self, node: Option<usize>) -> Result<Vec<Seen>, String> {
        let keys = self.generator.keys();
        let rows = self.ask(node, &contents_of(&self.table, keys)).await?;
        contents(&rows, keys).map_err(|error| error.to_string())
    }

    /// Reads at a node, or at any, until one answers.
    async fn ask(&mut self, node: Option<usize>, sql: &str) -> Result<Vec<Row>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let any = self.rng.random_range(0..self.shared.ports.len());
            let asked = self.shared.ask(node.unwrap_or(any), sql);
            let failure = match timeout(ATTEMPT, asked).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Fail(format!("no answer in {ATTEMPT:?}")),
            };
            self.allow(&failure).map_err(|error| format!("{sql}: {error}"))?;
            if Instant::now() > deadline {
                return Err(format!("{sql}: fails for {PATIENCE:?}: {failure}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether a failure may be; it is counted.
    fn allow(&self, failure: &Failure) -> Result<(), String> {
        self.shared.tally.lock().failures.push(failure.to_string());
        if self.shared.allows(failure) {
            return Ok(());
        }
        Err(format!("a statement fails with what no fault explains: {failure}"))
    }

    fn note(&mut self, script: &Script, ended: &Ended, took: Duration) {
        let show = |step: &Step| {
            let sql = step.statement.shown(&self.table, self.generator.keys());
            match &step.expected {
                Expected::Refused(state) => format!("    {sql}; -- to fail with {state}"),
                _ => format!("    {sql};"),
            }
        };
        let mut lines: Vec<String> = script.steps.iter().map(show).collect();
        if let Some(isolation) = script.isolation {
            lines.insert(0, format!("    BEGIN ISOLATION LEVEL {};", isolation.sql()));
            lines.push(if script.commits { "    COMMIT;" } else { "    ROLLBACK;" }.to_owned());
        }
        let ended = format!("-- {ended:?} in {took:?}");
        self.log.extend(lines.iter().cloned());
        self.log.push(ended.clone());
        let mut shown = lines;
        if shown.len() > 2 * SHOWN_LINES {
            let more = format!("    -- {} more", shown.len() - 2 * SHOWN_LINES);
            shown.splice(SHOWN_LINES..shown.len() - SHOWN_LINES, [more]);
        }
        shown.push(ended);
        for line in &mut shown {
            if let Some((end, _)) = line.char_indices().nth(300) {
                line.truncate(end);
            }
        }
        self.recent.push_back(shown.join("\n"));
        if self.recent.len() > SHOWN {
            self.recent.pop_front();
        }
    }

    fn report(&self, finding: &str) {
        let recent: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        let finding =
            format!("{}: {finding}\nits last transactions:\n{}", self.table, recent.join("\n"));
        self.shared.find(finding, &self.log);
    }
}

/// Whether an open transaction could be taken back.
async fn rolled_back(session: &mut Session) -> bool {
    matches!(timeout(ATTEMPT, session.rollback()).await, Ok(Ok(())))
}

/// Reads the table of a stream now and then, until the run is over.
pub(super) async fn observe(shared: Arc<Shared>, states: Arc<States>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !shared.is_over() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        let since = states.now();
        let sql = summary_of(&since.table);
        let asked = shared.ask(rng.random_range(0..shared.ports.len()), &sql);
        // What a fault cuts off shows nothing; the streams say which failures may be.
        let Ok(Ok(rows)) = timeout(ATTEMPT, asked).await else { continue };
        shared.tally.lock().observations += 1;
        let seen = match summary(&rows) {
            Ok(seen) => states.judge(&since, seen),
            Err(failure) => Some(failure.to_string()),
        };
        if let Some(finding) = seen {
            shared.find(format!("{}: {finding}", since.table), &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::statement::Statement;

    fn step(expected: Expected) -> Step {
        Step { statement: Statement::Truncate, expected }
    }

    fn failed(why: &str) -> Result<Answer, Failure> {
        Err(Failure::Fail(why.to_owned()))
    }

    #[test]
    fn an_answer_is_right_or_wrong_or_a_failure() {
        let changed = step(Expected::Changed(3));
        assert_eq!(judge(&changed, Ok(Answer::Changed(3))), Ok(()));
        assert!(matches!(judge(&changed, Ok(Answer::Changed(2))), Err(Ended::Wrong(_))));
        assert!(matches!(judge(&changed, failed("40001: again")), Err(Ended::Failed(_))));
        let unknown = Err(Failure::Info("40003: who knows".to_owned()));
        assert!(matches!(judge(&changed, unknown), Err(Ended::Unknown(_))));
        let refused = step(Expected::Refused("23505"));
        assert_eq!(judge(&refused, failed("23505: duplicate key")), Ok(()));
        assert!(matches!(judge(&refused, failed("54000: too large")), Err(Ended::Failed(_))));
        assert!(matches!(judge(&refused, Ok(Answer::Changed(0))), Err(Ended::Wrong(_))));
        let read = step(Expected::Summary(Summary::default()));
        assert!(matches!(judge(&read, Ok(Answer::Rows(Vec::new()))), Err(Ended::Wrong(_))));
    }
}

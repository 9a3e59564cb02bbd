//! What a run shows, as a person reads it and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::{Call, Outcome};
use crate::verdict::{Validity, Verdict};

/// A share of calls with unknown outcome above which a run shows too little.
const MOST_UNKNOWN: f64 = 0.10;

/// How many calls ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All calls.
    pub attempted: u64,
    /// Those that took effect.
    pub ok: u64,
    /// Those that did not.
    pub fail: u64,
    /// Those that may have.
    pub info: u64,
}

impl Tally {
    /// Counts a history.
    pub fn of<O>(calls: &[Call<O>]) -> Tally {
        let mut tally = Tally::default();
        for call in calls {
            tally.attempted += 1;
            match call.outcome {
                Outcome::Ok => tally.ok += 1,
                Outcome::Fail => tally.fail += 1,
                Outcome::Info => tally.info += 1,
            }
        }
        tally
    }
}

/// One run of one workload under one nemesis.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The workload.
    pub workload: String,
    /// The nemesis.
    pub nemesis: String,
    /// Seconds for which clients called.
    pub seconds: f64,
    /// The calls.
    #[serde(flatten)]
    pub calls: Tally,
    /// Calls that succeeded while a fault lasted.
    pub ok_during_faults: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Faults that could not be injected, with the first reason of each kind.
    pub refused: BTreeMap<String, String>,
    /// Why calls failed, by the first words, with their numbers.
    pub failures: BTreeMap<String, u64>,
    /// The verdict: `valid`, `INVALID` or `unknown`.
    pub verdict: String,
    /// What is wrong.
    pub findings: Vec<String>,
    /// What else is worth saying.
    pub notes: Vec<String>,
    /// Milliseconds the checker took.
    pub checker_ms: u128,
    /// Where the randomness came from.
    pub seed: u64,
    /// Where the history was kept, if it was.
    pub history: Option<String>,
}

impl RunReport {
    /// Whether this run is evidence of a fault-free database.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.verdict == "valid"
    }

    /// Whether this run is evidence of a fault.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.verdict == "INVALID"
    }
}

/// The name of a validity in reports.
#[must_use]
pub fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict.validity {
        Validity::Valid => "valid",
        Validity::Invalid => "INVALID",
        Validity::Unknown => "unknown",
    }
}

/// Why calls did not succeed, by the first words of the reason.
#[must_use]
pub fn reasons<O>(calls: &[Call<O>]) -> BTreeMap<String, u64> {
    reasons_of(calls.iter().filter_map(|call| call.error.as_deref()))
}

/// Errors by their first words, with their numbers.
#[must_use]
pub fn reasons_of<'a>(errors: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for error in errors {
        // Without keys and numbers, so that equal reasons are equal.
        let words: String = error.chars().filter(|c| !c.is_ascii_digit()).take(120).collect();
        let state: String = error.chars().take(5).collect();
        let known = state.chars().all(|c| c.is_ascii_alphanumeric());
        let key = if known && error.get(5..6) == Some(":") {
            format!("{state}{}", words.split_once(':').map_or("", |(_, rest)| rest))
        } else {
            words
        };
        *reasons.entry(key).or_default() += 1;
    }
    reasons
}

/// Says why a run shows too little, if it does. Beside a share of all calls, `interrupted` calls may
/// have an unknown outcome: those that faults cut off.
#[must_use]
pub fn too_little(
    tally: Tally,
    least: u64,
    interrupted: u64,
    kinds: &BTreeMap<String, bool>,
) -> Option<String> {
    if tally.ok < least {
        return Some(format!("only {} calls succeeded, {least} are needed", tally.ok));
    }
    if tally.info.saturating_sub(interrupted) as f64 > tally.attempted as f64 * MOST_UNKNOWN {
        return Some(format!("{} of {} outcomes are unknown", tally.info, tally.attempted));
    }
    let missing: Vec<&str> =
        kinds.iter().filter(|(_, ok)| !**ok).map(|(kind, _)| kind.as_str()).collect();
    (!missing.is_empty())
        .then(|| format!("no call of these kinds succeeded: {}", missing.join(", ")))
}

/// The kind of a call: the name of the variant.
#[must_use]
pub fn kind<O: Serialize>(op: &O) -> String {
    let value = serde_json::to_value(op).unwrap_or_default();
    match value.as_object().and_then(|object| object.keys().next()) {
        Some(kind) => kind.clone(),
        None => "transaction".to_owned(),
    }
}

/// Which kinds of calls were made, and whether any of a kind succeeded.
#[must_use]
pub fn kinds<O: Serialize>(calls: &[Call<O>]) -> BTreeMap<String, bool> {
    let mut kinds = BTreeMap::new();
    for call in calls {
        *kinds.entry(kind(&call.asked)).or_default() |= call.is_ok();
    }
    kinds
}

/// The runs as a table.
#[derive(Debug)]
pub struct AsTable<'a>(pub &'a [RunReport]);

/// The head of the table.
#[must_use]
pub fn head() -> String {
    line([
        "workload",
        "nemesis",
        "s",
        "ok",
        "ok/s",
        "fail",
        "info",
        "faults",
        "judged ms",
        "verdict",
        "seed",
    ])
}

fn line<T: fmt::Display>(cells: [T; 11]) -> String {
    let [workload, nemesis, seconds, ok, rate, fail, info, faults, judged, verdict, seed] = cells;
    format!(
        "{workload:<12} {nemesis:<18} {seconds:>6} {ok:>8} {rate:>7} {fail:>8} {info:>6} \
         {faults:>6} {judged:>9} {verdict:>8}  {seed}"
    )
}

/// A run as a row of the table.
impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line([
            self.workload.clone(),
            self.nemesis.clone(),
            format!("{:.1}", self.seconds),
            self.calls.ok.to_string(),
            format!("{:.0}", self.calls.ok as f64 / self.seconds.max(0.1)),
            self.calls.fail.to_string(),
            self.calls.info.to_string(),
            self.faults.values().sum::<u64>().to_string(),
            self.checker_ms.to_string(),
            self.verdict.clone(),
            self.seed.to_string(),
        ]))
    }
}

impl fmt::Display for AsTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", head())?;
        self.0.iter().try_for_each(|run| writeln!(f, "{run}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_too_little_is_not_believed() {
        let tally = Tally { attempted: 100, ok: 80, fail: 20, info: 0 };
        let kinds = BTreeMap::from([("read".to_owned(), true)]);
        assert_eq!(too_little(tally, 80, 0, &kinds), None);
        assert!(too_little(tally, 81, 0, &kinds).is_some());
        assert!(too_little(Tally { info: 11, ..tally }, 1, 0, &kinds).is_some());
        assert!(too_little(Tally { info: 11, ..tally }, 1, 5, &kinds).is_none());
        let kinds = BTreeMap::from([("read".to_owned(), false)]);
        assert!(too_little(tally, 1, 0, &kinds).is_some());
    }
}

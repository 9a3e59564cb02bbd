//! What a checker says about a history.

use std::fmt::Display;

/// At most so many findings are kept; the rest is counted.
const MOST: usize = 20;

/// What a checker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    /// The history is allowed.
    Valid,
    /// It is not.
    Invalid,
    /// The checker could not tell; it counts as a failure.
    Unknown,
}

/// A verdict with its reasons.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What it says.
    pub validity: Validity,
    /// What is wrong, the first few.
    pub findings: Vec<String>,
    /// How many findings there are.
    pub count: usize,
    /// What is worth saying and no fault.
    pub notes: Vec<String>,
}

impl Default for Verdict {
    fn default() -> Self {
        let (findings, notes) = (Vec::new(), Vec::new());
        Self { validity: Validity::Valid, findings, count: 0, notes }
    }
}

impl Verdict {
    /// Nothing is wrong so far.
    #[must_use]
    pub fn valid() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.validity == Validity::Valid
    }

    /// Something is wrong.
    pub fn find(&mut self, finding: impl Display) {
        self.validity = Validity::Invalid;
        self.count += 1;
        if self.findings.len() < MOST {
            self.findings.push(finding.to_string());
        }
    }

    /// Nothing can be said, unless something is wrong for certain.
    pub fn unknown(&mut self, why: impl Display) {
        if self.validity == Validity::Valid {
            self.validity = Validity::Unknown;
        }
        self.count += 1;
        self.findings.push(why.to_string());
    }

    /// Something is worth saying.
    pub fn note(&mut self, note: impl Display) {
        self.notes.push(note.to_string());
    }
}

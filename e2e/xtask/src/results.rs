//! Counting tests: what the test programs say about themselves, summed up.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
}

impl Counts {
    /// One check that is not a test program.
    pub(crate) fn of_check(passed: bool) -> Counts {
        Counts { passed: u64::from(passed), failed: u64::from(!passed) }
    }

    /// Adds what a line says, if it is the last line of a test program.
    pub(crate) fn see(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let words = counts.split([' ', ';', '.', ',']).filter(|word| !word.is_empty());
        let mut number = 0;
        for word in words {
            match word {
                "passed" => self.passed += number,
                "failed" => {
                    self.failed += number;
                    break;
                }
                _ => number = word.parse().unwrap_or(0),
            }
        }
    }

    /// A program that failed without a failed test did not build, crashed or was ended.
    pub(crate) fn and_exit(mut self, succeeded: bool) -> Counts {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.see(line));
        counts
    }

    #[test]
    fn the_last_lines_of_test_programs_are_summed() {
        let counts = seen(&[
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1s",
        ]);
        assert_eq!(counts, Counts { passed: 15, failed: 2 });
        assert_eq!(counts.to_string(), "15 passed, 2 failed");
    }

    #[test]
    fn a_program_that_did_not_run_counts_as_failed() {
        assert_eq!(seen(&[]).and_exit(false).failed, 1);
        assert_eq!(seen(&[]).and_exit(true).failed, 0);
        let red = "test result: FAILED. 0 passed; 4 failed; 0 ignored";
        assert_eq!(seen(&[red]).and_exit(false).failed, 4);
    }
}

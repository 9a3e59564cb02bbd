//! What a failed command tells its user.

use std::io::Write as _;
use std::process::ExitCode;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of wrong flags or arguments.
pub(crate) const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: FAILED }
    }

    /// A command that lacks something only its user can say.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(message) }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// A failed request to the API server, about `what`.
    pub(crate) fn request(what: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_forbidden() => {
                Self::new(format!("may not {what}: {}", status.message)).hint(
                    "ask for a role that allows it; 'kubectl auth can-i' shows what is allowed",
                )
            }
            error => Self::new(format!("cannot {what}: {}", told(error))),
        }
    }

    /// Prints the failure; gives the exit code of the process.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // Without a stderr there is nobody to tell.
        drop(std::io::stderr().write_all(text.as_bytes()));
        ExitCode::from(self.code)
    }
}

/// What the API server said, or why it said nothing; without the client's wrapping.
pub(crate) fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => causes(error),
    }
}

/// An error and what caused it, each said once.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_api_server_is_told_in_its_own_words() {
        let status = |reason: &str, code| {
            kube::core::Status::failure("pods is forbidden", reason).with_code(code).boxed()
        };
        let forbidden = kube::Error::Api(status("Forbidden", 403));
        assert_eq!(told(&forbidden), "pods is forbidden");
        let failure = Failure::request("list the pods", &forbidden);
        assert_eq!(failure.to_string(), "may not list the pods: pods is forbidden");
        let broken = kube::Error::Api(status("InternalError", 500));
        let failure = Failure::request("list the pods", &broken);
        assert_eq!(failure.to_string(), "cannot list the pods: pods is forbidden");
    }
}

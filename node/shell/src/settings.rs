//! Options of the shell, as `\set` and `--set` change them.

use crate::render::{Border, Format};
use crate::target::Target;
use crate::wire::TransactionState;

/// Prompt unless `\set prompt1` says otherwise.
const DEFAULT_PROMPT: &str = "%n@%M/%/%x> ";

/// Options of one shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How results are printed.
    pub display_format: Format,
    /// Lines drawn around tables.
    pub border: Border,
    /// Whether each statement is printed before it runs.
    pub echo: bool,
    /// Whether the first error ends the shell.
    pub errexit: bool,
    /// Whether the time a statement took is printed.
    pub show_times: bool,
    /// Prompt, with `%` sequences.
    pub prompt1: String,
    defaults: Defaults,
}

/// What `\unset` returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Defaults {
    format: Format,
    errexit: bool,
    show_times: bool,
}

impl Settings {
    /// Options of a shell that reads from a person, or prints to a terminal, or neither.
    #[must_use]
    pub(crate) fn new(interactive: bool, terminal_output: bool) -> Self {
        let format = if terminal_output { Format::Table } else { Format::Tsv };
        let defaults = Defaults { format, errexit: !interactive, show_times: terminal_output };
        Self {
            display_format: defaults.format,
            border: Border::default(),
            echo: false,
            errexit: defaults.errexit,
            show_times: defaults.show_times,
            prompt1: DEFAULT_PROMPT.to_owned(),
            defaults,
        }
    }

    /// Sets an option; a boolean without a value becomes true.
    ///
    /// # Errors
    ///
    /// When the option or the value is unknown.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        let text = || value.ok_or_else(|| format!("option {name} needs a value"));
        match name {
            "display_format" => self.display_format = text()?.parse()?,
            "border" => {
                let number = text()?.parse().ok();
                self.border = number
                    .and_then(Border::from_number)
                    .ok_or_else(|| "border is a number from 0 to 3".to_owned())?;
            }
            "echo" => self.echo = boolean(name, value)?,
            "errexit" => self.errexit = boolean(name, value)?,
            "show_times" => self.show_times = boolean(name, value)?,
            "prompt1" => self.prompt1 = text()?.to_owned(),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// Returns an option to its default.
    ///
    /// # Errors
    ///
    /// When the option is unknown.
    pub(crate) fn unset(&mut self, name: &str) -> Result<(), String> {
        match name {
            "display_format" => self.display_format = self.defaults.format,
            "border" => self.border = Border::default(),
            "echo" => self.echo = false,
            "errexit" => self.errexit = self.defaults.errexit,
            "show_times" => self.show_times = self.defaults.show_times,
            "prompt1" => DEFAULT_PROMPT.clone_into(&mut self.prompt1),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// Name, value and meaning of every option.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<[String; 3]> {
        let row =
            |name: &str, value: String, meaning: &str| [name.to_owned(), value, meaning.to_owned()];
        vec![
            row("border", self.border.number().to_string(), "lines around tables, 0 to 3"),
            row("display_format", self.display_format.to_string(), "how results are printed"),
            row("echo", self.echo.to_string(), "print each statement before it runs"),
            row("errexit", self.errexit.to_string(), "exit upon the first error"),
            row(
                "prompt1",
                self.prompt1.clone(),
                "prompt; %n user, %M host:port, %/ database, %x transaction",
            ),
            row("show_times", self.show_times.to_string(), "print how long statements take"),
        ]
    }

    /// The prompt for a session.
    #[must_use]
    pub(crate) fn prompt(
        &self,
        target: &Target,
        database: &str,
        state: TransactionState,
    ) -> String {
        let mut prompt = String::new();
        let mut chars = self.prompt1.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                prompt.push(c);
                continue;
            }
            match chars.next() {
                Some('n') => prompt.push_str(&target.user),
                Some('M') => prompt.push_str(&target.address()),
                Some('m') => prompt.push_str(&target.host),
                Some('>') => prompt.push_str(&target.port.to_string()),
                Some('/') => prompt.push_str(database),
                Some('x') => prompt.push_str(match state {
                    TransactionState::Idle => "",
                    TransactionState::Open => "  OPEN",
                    TransactionState::Failed => "  ERROR",
                }),
                Some('%') => prompt.push('%'),
                Some(other) => prompt.extend(['%', other]),
                None => prompt.push('%'),
            }
        }
        prompt
    }
}

fn boolean(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "on" | "yes" | "1" | "t" | "y") => Ok(true),
        Some("false" | "off" | "no" | "0" | "f" | "n") => Ok(false),
        Some(other) => Err(format!("option {name} is true or false, not {other:?}")),
    }
}

fn unknown(name: &str) -> String {
    format!("unknown option {name:?}; \\set alone lists the options")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_terminal() {
        let person = Settings::new(true, true);
        assert_eq!(
            (person.display_format, person.errexit, person.show_times),
            (Format::Table, false, true)
        );
        let pipe = Settings::new(false, false);
        assert_eq!(
            (pipe.display_format, pipe.errexit, pipe.show_times),
            (Format::Tsv, true, false)
        );
    }

    #[test]
    fn options_are_set_and_unset() {
        let before = Settings::new(true, true);
        let mut settings = before.clone();
        let values = [
            ("display_format", "csv"),
            ("border", "3"),
            ("echo", "on"),
            ("errexit", "true"),
            ("show_times", "off"),
            ("prompt1", "> "),
        ];
        for (name, value) in values {
            let before = settings.clone();
            settings.set(name, Some(value)).unwrap();
            assert_ne!(settings, before, "{name}");
        }
        for (name, _) in values {
            settings.unset(name).unwrap();
        }
        assert_eq!(settings, before);
        settings.set("errexit", None).unwrap();
        assert!(settings.errexit);
    }

    #[test]
    fn wrong_options_are_named() {
        let mut settings = Settings::new(true, true);
        for (name, value, expected) in [
            ("colour", Some("red"), "unknown option \"colour\""),
            ("border", Some("4"), "from 0 to 3"),
            ("border", None, "needs a value"),
            ("echo", Some("maybe"), "true or false, not \"maybe\""),
            ("display_format", Some("pdf"), "unknown format \"pdf\""),
        ] {
            let error = settings.set(name, value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(settings.unset("colour").is_err());
    }

    #[test]
    fn the_prompt_shows_where_the_session_stands() {
        let target = Target {
            host: "localhost".to_owned(),
            port: 26257,
            user: "root".to_owned(),
            database: "defaultdb".to_owned(),
            application_name: String::new(),
            options: None,
        };
        let mut settings = Settings::new(true, true);
        let prompt = |settings: &Settings, state| settings.prompt(&target, "shop", state);
        assert_eq!(prompt(&settings, TransactionState::Idle), "root@localhost:26257/shop> ");
        assert_eq!(prompt(&settings, TransactionState::Open), "root@localhost:26257/shop  OPEN> ");
        assert_eq!(
            prompt(&settings, TransactionState::Failed),
            "root@localhost:26257/shop  ERROR> "
        );
        settings.prompt1 = "%m %> 100%% %q %".to_owned();
        assert_eq!(prompt(&settings, TransactionState::Idle), "localhost 26257 100% %q %");
    }
}

//! Takes lines of input, gathers them into statements, runs statements and commands.
//!
//! The same for `-e`, files, standard input and a person at a prompt: they differ in where the
//! lines come from and in [`Settings`](crate::settings::Settings).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::help;
use crate::meta::{self, Meta};
use crate::render::{self, Column};
use crate::session::{Outcome, Session, Stop};
use crate::split::Splitter;
use crate::target::{ConnectionArgs, Target, parse_address};

/// How deep files may include files.
const INCLUDE_DEPTH_MAX: usize = 16;

/// What the reader of input does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Reads on.
    Continue,
    /// Ends because the user said so.
    Quit,
    /// Ends because of an error, under `errexit`.
    Failed,
}

/// A session and the statement being entered.
pub(crate) struct Shell {
    pub(crate) session: Session,
    /// Text of the statement entered so far.
    pub(crate) buffer: Splitter,
    /// Whether anything failed so far.
    pub(crate) failed: bool,
    /// Files being read, the innermost last.
    files: Vec<PathBuf>,
}

impl Shell {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, buffer: Splitter::default(), failed: false, files: Vec::new() }
    }

    /// Whether the next line continues a statement.
    pub(crate) fn is_mid_statement(&self) -> bool {
        !self.buffer.text().is_empty()
    }

    /// Takes a line; runs the statements it completes, or the command it is.
    pub(crate) async fn line(&mut self, line: &str) -> Result<Flow, Stop> {
        // A backslash within a quote is text, and a word within a statement is SQL.
        let may_be_command = self.buffer.open().is_none()
            && (!self.buffer.is_statement() || line.trim_start().starts_with('\\'));
        if may_be_command && let Some(parsed) = meta::parse(line) {
            return match parsed {
                Ok(meta) => Box::pin(self.command(meta)).await,
                Err(error) => {
                    self.session.complain(&format!("ERROR: {error}"))?;
                    Ok(self.after(Outcome::Failed))
                }
            };
        }
        let statements = self.buffer.push(&format!("{line}\n"));
        if !self.buffer.is_statement() && self.buffer.open().is_none() {
            self.buffer.clear();
        }
        for statement in statements {
            if self.session.execute(&statement).await? == Outcome::Failed {
                // What was entered together with a failed statement may rely on it.
                return Ok(self.after(Outcome::Failed));
            }
        }
        Ok(Flow::Continue)
    }

    /// Ends an input: runs the statement that lacks its semicolon.
    pub(crate) async fn end_of_input(&mut self) -> Result<Flow, Stop> {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.open().is_some() {
            self.session.complain("ERROR: the input ends within a quote or a comment")?;
            return Ok(self.after(Outcome::Failed));
        }
        if !buffer.is_statement() {
            return Ok(Flow::Continue);
        }
        let outcome = self.session.execute(buffer.text().trim()).await?;
        Ok(self.after(outcome))
    }

    /// Runs a whole text, such as that of `-e` or a file.
    pub(crate) async fn text(&mut self, text: &str) -> Result<Flow, Stop> {
        for line in text.lines() {
            let flow = self.line(line).await?;
            if flow != Flow::Continue {
                return Ok(flow);
            }
        }
        self.end_of_input().await
    }

    /// Runs a file, which may include others.
    pub(crate) async fn file(&mut self, path: &Path) -> Result<Flow, Stop> {
        if self.files.len() >= INCLUDE_DEPTH_MAX {
            let text = format!("ERROR: files include each other {INCLUDE_DEPTH_MAX} deep");
            self.session.complain(&text)?;
            return Ok(self.after(Outcome::Failed));
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.session
                    .complain(&format!("ERROR: cannot read {}: {error}", path.display()))?;
                return Ok(self.after(Outcome::Failed));
            }
        };
        self.files.push(path.to_owned());
        let flow = self.nested_text(&text).await;
        self.files.pop();
        flow
    }

    /// Runs a text of its own, which neither continues nor leaves the statement being entered.
    async fn nested_text(&mut self, text: &str) -> Result<Flow, Stop> {
        let outer = std::mem::take(&mut self.buffer);
        let flow = self.text(text).await;
        self.buffer = outer;
        flow
    }

    fn after(&mut self, outcome: Outcome) -> Flow {
        let failed = outcome == Outcome::Failed;
        self.failed |= failed;
        if failed && self.session.settings.errexit { Flow::Failed } else { Flow::Continue }
    }

    async fn command(&mut self, command: Meta) -> Result<Flow, Stop> {
        let result = match command {
            Meta::Quit => return Ok(Flow::Quit),
            Meta::Statement(sql) => {
                let outcome = self.session.execute(&sql).await?;
                return Ok(self.after(outcome));
            }
            Meta::Include { path, relative } => {
                let path = self.resolve(&path, relative);
                return self.file(&path).await;
            }
            Meta::RunOutput(command) => return self.run_output(&command).await,
            Meta::Connect(arguments) => {
                let outcome = self.connect(&arguments).await?;
                return Ok(self.after(outcome));
            }
            Meta::Run(command) => self.run(command).await?,
            Meta::Help => self.session.print(help::COMMANDS).map(Ok)?,
            Meta::SqlHelp(words) => self.session.print(&help::statement_help(&words)).map(Ok)?,
            Meta::Echo(text) => self.session.print(&format!("{text}\n")).map(Ok)?,
            Meta::Print => {
                let text = self.buffer.text().to_owned();
                self.session.print(&text).map(Ok)?
            }
            Meta::Reset => {
                self.buffer.clear();
                Ok(())
            }
            Meta::Expanded(on) => {
                self.set_expanded(on);
                Ok(())
            }
            Meta::Set(None) => self.list_settings().map(Ok)?,
            Meta::Set(Some((name, value))) => self.session.settings.set(&name, value.as_deref()),
            Meta::Unset(name) => self.session.settings.unset(&name),
        };
        self.session.streams.out.flush()?;
        match result {
            Ok(()) => Ok(Flow::Continue),
            Err(error) => {
                self.session.complain(&format!("ERROR: {error}"))?;
                Ok(self.after(Outcome::Failed))
            }
        }
    }

    fn set_expanded(&mut self, on: Option<bool>) {
        let format = &mut self.session.settings.display_format;
        let on = on.unwrap_or(*format != render::Format::Records);
        *format = if on { render::Format::Records } else { render::Format::Table };
    }

    fn list_settings(&mut self) -> Result<(), Stop> {
        let columns = ["option", "value", "description"].map(Column::text).to_vec();
        let list = self.session.settings.list();
        let rows = list.into_iter().map(|row| row.map(Some).to_vec()).collect();
        let text = render::render(self.session.settings.display_format, columns, rows);
        self.session.print(&text)
    }

    fn resolve(&self, path: &str, relative: bool) -> PathBuf {
        let path = Path::new(path);
        match self.files.last().and_then(|file| file.parent()) {
            Some(folder) if relative && path.is_relative() => folder.join(path),
            _ => path.to_owned(),
        }
    }

    async fn connect(&mut self, arguments: &[String]) -> Result<Outcome, Stop> {
        if arguments.is_empty() {
            let target =
                Target { database: self.session.database.clone(), ..self.session.target.clone() };
            let text = format!(
                "Connection string: {}\nYou are connected to database \"{}\" as user \"{}\".\n",
                target.url(),
                target.database,
                target.user
            );
            self.session.print(&text)?;
            self.session.streams.out.flush()?;
            return Ok(Outcome::Ok);
        }
        match new_target(&self.session.target, &self.session.database, arguments) {
            Ok(target) => self.session.connect(target).await,
            Err(error) => {
                self.session.complain(&format!("ERROR: {error}"))?;
                Ok(Outcome::Failed)
            }
        }
    }

    /// Runs a command of the operating system on the shell's own terminal.
    async fn run(&mut self, command: String) -> Result<Result<(), String>, Stop> {
        self.session.streams.out.flush()?;
        let command = if command.is_empty() {
            std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned())
        } else {
            command
        };
        let status =
            spawn_and_wait(move || Command::new("sh").arg("-c").arg(&command).status()).await;
        Ok(match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the command ended with {status}")),
            Err(error) => Err(format!("cannot run the command: {error}")),
        })
    }

    async fn run_output(&mut self, command: &str) -> Result<Flow, Stop> {
        self.session.streams.out.flush()?;
        let owned = command.to_owned();
        let output = spawn_and_wait(move || {
            Command::new("sh").arg("-c").arg(&owned).stderr(Stdio::inherit()).output()
        })
        .await;
        let error = match output {
            Ok(output) if output.status.success() => match String::from_utf8(output.stdout) {
                Ok(text) => return self.nested_text(&text).await,
                Err(_) => "the command printed something other than text".to_owned(),
            },
            // A command that fails half-way has printed half of its statements.
            Ok(output) => format!("the command ended with {}; nothing was run", output.status),
            Err(error) => format!("cannot run the command: {error}"),
        };
        self.session.complain(&format!("ERROR: {error}"))?;
        Ok(self.after(Outcome::Failed))
    }
}

/// Runs something that blocks away from the threads of the runtime.
async fn spawn_and_wait<T: Send + 'static>(
    action: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(action).await.unwrap_or_else(|error| Err(error.into()))
}

/// The target that the arguments of `\c` ask for.
fn new_target(current: &Target, database: &str, arguments: &[String]) -> Result<Target, String> {
    if let [url] = arguments
        && url.contains("://")
    {
        let args = ConnectionArgs {
            url: Some(url.clone()),
            user: Some(current.user.clone()),
            database: Some(database.to_owned()),
            insecure: true,
            ..ConnectionArgs::default()
        };
        return args.resolve(&|_| None).map_err(|error| error.to_string());
    }
    if arguments.len() > 4 {
        return Err("\\c takes at most a database, a user, a host and a port".to_owned());
    }
    let argument = |index: usize| {
        arguments.get(index).map(String::as_str).filter(|word| !word.is_empty() && *word != "-")
    };
    let mut target = Target { database: database.to_owned(), ..current.clone() };
    if let Some(database) = argument(0) {
        database.clone_into(&mut target.database);
    }
    if let Some(user) = argument(1) {
        user.clone_into(&mut target.user);
    }
    if let Some(host) = argument(2) {
        (target.host, target.port) =
            parse_address(host, target.port).map_err(|error| error.to_string())?;
    }
    if let Some(port) = argument(3) {
        target.port = port.parse().map_err(|_| format!("{port:?} is not a port number"))?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_target_keeps_what_is_not_named() {
        let current = Target {
            host: "localhost".to_owned(),
            port: 26257,
            user: "root".to_owned(),
            database: "defaultdb".to_owned(),
            application_name: "x".to_owned(),
            options: None,
        };
        let ask = |words: &str| {
            let words: Vec<String> = words.split(' ').map(ToOwned::to_owned).collect();
            new_target(&current, "shop", &words)
                .map(|t| format!("{}@{}/{}", t.user, t.address(), t.database))
        };
        assert_eq!(ask("bank").unwrap(), "root@localhost:26257/bank");
        assert_eq!(ask("- ann").unwrap(), "ann@localhost:26257/shop");
        assert_eq!(ask("- - db 5").unwrap(), "root@db:5/shop");
        assert_eq!(ask("postgresql://eve@h:1/d").unwrap(), "eve@h:1/d");
        assert_eq!(ask("postgresql://h:1").unwrap(), "root@h:1/shop");
        assert!(ask("a b c x").unwrap_err().contains("not a port number"));
        assert!(ask("a b c 1 2").unwrap_err().contains("at most"));
        assert!(ask("postgresql://h?sslmode=require").is_err());
    }
}

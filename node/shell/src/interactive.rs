//! The shell of a person at a terminal.

use std::path::PathBuf;

use rustyline::Editor;
use rustyline::config::{CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use crate::complete::SqlHelper;
use crate::session::{Session, Stop};
use crate::shell::{Flow, Shell};
use crate::wire::TransactionState;

/// How many statements the history keeps.
const HISTORY_ENTRIES_MAX: usize = 10_000;

/// Reads statements from the terminal until the user leaves.
pub(crate) async fn interact(shell: &mut Shell, history: Option<PathBuf>) -> Result<(), Stop> {
    greet(&mut shell.session).await?;
    let mut editor = Some(open_editor().map_err(terminal_error)?);
    if let (Some(path), Some(editor)) = (&history, &mut editor) {
        // A history that cannot be read is an empty one; the first start has none.
        editor.load_history(path).unwrap_or_default();
    }
    let mut entered = String::new();
    loop {
        let prompt = prompt(shell);
        let Some(mut owned) = editor.take() else { return Ok(()) };
        // Reading blocks, so it happens away from the threads of the runtime.
        let reading = tokio::task::spawn_blocking(move || {
            let line = owned.readline(&prompt);
            (owned, line)
        });
        let (mut returned, line) = reading.await.map_err(std::io::Error::from)?;
        let flow = match line {
            Ok(line) => {
                entered.push_str(&line);
                let flow = lines(shell, &line).await;
                if shell.is_mid_statement() {
                    entered.push('\n');
                } else {
                    remember(&mut returned, history.as_ref(), &entered);
                    entered.clear();
                }
                flow
            }
            Err(ReadlineError::Interrupted) => {
                shell.buffer.clear();
                entered.clear();
                Ok(Flow::Continue)
            }
            Err(ReadlineError::Eof) => Ok(Flow::Quit),
            Err(error) => return Err(terminal_error(error).into()),
        };
        editor = Some(returned);
        match flow {
            Ok(Flow::Continue) => look_for_database(&mut shell.session).await,
            Ok(Flow::Quit | Flow::Failed) => return Ok(()),
            // The statement was given up, not the shell.
            Err(Stop::Interrupted) if !shell.session.settings.errexit => {}
            Err(stop) => return Err(stop),
        }
    }
}

/// Takes what the editor gives: one line, or several when they were pasted.
async fn lines(shell: &mut Shell, text: &str) -> Result<Flow, Stop> {
    for line in text.split('\n') {
        let flow = shell.line(line).await?;
        if flow != Flow::Continue {
            return Ok(flow);
        }
    }
    Ok(Flow::Continue)
}

fn open_editor() -> rustyline::Result<Editor<SqlHelper, FileHistory>> {
    let config = Config::builder()
        .max_history_size(HISTORY_ENTRIES_MAX)?
        .history_ignore_space(true)
        .history_ignore_dups(true)?
        .completion_type(CompletionType::List)
        .auto_add_history(false)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(SqlHelper));
    Ok(editor)
}

fn terminal_error(error: ReadlineError) -> std::io::Error {
    match error {
        ReadlineError::Io(error) => error,
        error => std::io::Error::other(error.to_string()),
    }
}

fn remember(editor: &mut Editor<SqlHelper, FileHistory>, path: Option<&PathBuf>, entry: &str) {
    let entry = entry.trim();
    if entry.is_empty() {
        return;
    }
    // A history that cannot be written must not disturb the session.
    if editor.add_history_entry(entry).unwrap_or(false)
        && let Some(path) = path
    {
        editor.append_history(path).unwrap_or_default();
    }
}

fn prompt(shell: &Shell) -> String {
    let session = &shell.session;
    let state = session.connection.transaction();
    let prompt = session.settings.prompt(&session.target, &session.database, state);
    if shell.is_mid_statement() { continuation_prompt(&prompt) } else { prompt }
}

/// An arrow that ends where the prompt ends.
fn continuation_prompt(prompt: &str) -> String {
    let width = prompt.trim_end().chars().count().saturating_sub(2);
    format!("{}-> ", " ".repeat(width))
}

async fn greet(session: &mut Session) -> Result<(), Stop> {
    let version = match session.ask("SELECT version()").await {
        Some(version) => Some(version),
        None => session.connection.parameter("server_version").map(ToOwned::to_owned),
    };
    let cluster = session.ask("SELECT crdb_internal.cluster_id()").await;
    session.print(&welcome(version.as_deref(), cluster.as_deref()))?;
    session.streams.out.flush()?;
    Ok(())
}

fn welcome(version: Option<&str>, cluster: Option<&str>) -> String {
    let mut text = String::from(
        "#\n# Welcome to the crdb SQL shell.\n# All statements must be terminated by a semicolon.\n# To exit, type: \\q.\n#\n",
    );
    if let Some(version) = version {
        text.push_str(&format!("# Server version: {version}\n"));
    }
    if let Some(cluster) = cluster {
        text.push_str(&format!("# Cluster ID: {cluster}\n"));
    }
    if version.is_some() || cluster.is_some() {
        text.push_str("#\n");
    }
    text + "# Enter \\? for a brief introduction.\n#\n"
}

/// Learns the session's database anew, for the prompt, when a statement may have changed it.
async fn look_for_database(session: &mut Session) {
    let idle = session.connection.transaction() == TransactionState::Idle;
    if session.database_may_have_changed && idle && !session.connection.is_broken() {
        session.database_may_have_changed = false;
        if let Some(database) = session.ask("SHOW database").await {
            session.database = database;
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_welcome_leaves_out_what_the_server_does_not_say() {
        expect![[r#"
            #
            # Welcome to the crdb SQL shell.
            # All statements must be terminated by a semicolon.
            # To exit, type: \q.
            #
            # Server version: crdb v0.1.0
            # Cluster ID: 6f0c6a1e-0000-4000-8000-000000000000
            #
            # Enter \? for a brief introduction.
            #
            #
            # Welcome to the crdb SQL shell.
            # All statements must be terminated by a semicolon.
            # To exit, type: \q.
            #
            # Enter \? for a brief introduction.
            #
        "#]]
        .assert_eq(&format!(
            "{}{}",
            welcome(Some("crdb v0.1.0"), Some("6f0c6a1e-0000-4000-8000-000000000000")),
            welcome(None, None)
        ));
    }

    #[test]
    fn the_continuation_arrow_ends_where_the_prompt_ends() {
        assert_eq!(continuation_prompt("root@h:1/db> "), "          -> ");
        assert_eq!(continuation_prompt("> "), "-> ");
    }
}

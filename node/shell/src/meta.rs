//! Commands to the shell itself: lines that start with a backslash, and `quit`, `exit`, `help`.

/// A parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meta {
    /// `\q`: leaves the shell.
    Quit,
    /// `\?`: lists the commands.
    Help,
    /// `\h [words]`: shows the syntax of SQL statements.
    SqlHelp(String),
    /// A command that stands for this SQL statement.
    Statement(String),
    /// `\c [db [user [host [port]]]]`: shows or changes the connection.
    Connect(Vec<String>),
    /// `\x [on|off]`: prints rows as records; toggles without an argument.
    Expanded(Option<bool>),
    /// `\set [name [value]]`: lists or sets options.
    Set(Option<(String, Option<String>)>),
    /// `\unset name`: returns an option to its default.
    Unset(String),
    /// `\i file` and `\ir file`: runs a file.
    Include {
        /// File as given.
        path: String,
        /// Whether the path starts at the including file.
        relative: bool,
    },
    /// `\! [command]`: runs a command of the operating system.
    Run(String),
    /// `\| command`: runs the SQL that a command prints.
    RunOutput(String),
    /// `\echo text`: prints the text.
    Echo(String),
    /// `\p`: prints the statement being entered.
    Print,
    /// `\r`: forgets the statement being entered.
    Reset,
}

/// Reads a line as a command; `None` when it is none.
///
/// # Errors
///
/// When it is a command, but an unknown one or with wrong arguments.
pub(crate) fn parse(line: &str) -> Option<Result<Meta, String>> {
    let line = line.trim();
    match line.trim_end_matches(';').trim_end() {
        "quit" | "exit" => return Some(Ok(Meta::Quit)),
        "help" => return Some(Ok(Meta::Help)),
        _ => {}
    }
    let command = line.strip_prefix('\\')?;
    let name_len = match command.chars().next() {
        Some('!' | '|' | '?') => 1,
        _ => command.find(char::is_whitespace).unwrap_or(command.len()),
    };
    let (name, arguments) = command.split_at_checked(name_len)?;
    Some(parse_command(name, arguments.trim()))
}

fn parse_command(name: &str, arguments: &str) -> Result<Meta, String> {
    // A trailing semicolon is a habit, except where the text is not the shell's.
    let trimmed = arguments.trim_end_matches(';').trim_end();
    let none = |meta: Meta| {
        if trimmed.is_empty() { Ok(meta) } else { Err(format!("\\{name} takes no argument")) }
    };
    let required = |what: &str| {
        if trimmed.is_empty() { Err(format!("\\{name} needs {what}")) } else { Ok(trimmed) }
    };
    match name.trim_end_matches(';') {
        "q" => none(Meta::Quit),
        "?" | "help" => none(Meta::Help),
        "h" => Ok(Meta::SqlHelp(trimmed.to_owned())),
        "l" => none(Meta::Statement("SHOW DATABASES".to_owned())),
        "dt" => none(Meta::Statement("SHOW TABLES".to_owned())),
        "d" if trimmed.is_empty() => Ok(Meta::Statement("SHOW TABLES".to_owned())),
        "d" => Ok(Meta::Statement(format!("SHOW COLUMNS FROM {}", table_name(trimmed)?))),
        "d+" => {
            let table = table_name(required("a table")?)?;
            Ok(Meta::Statement(format!("SHOW CREATE TABLE {table}")))
        }
        "c" | "connect" => Ok(Meta::Connect(words(trimmed))),
        "x" => match trimmed {
            "" => Ok(Meta::Expanded(None)),
            "on" | "true" | "1" => Ok(Meta::Expanded(Some(true))),
            "off" | "false" | "0" => Ok(Meta::Expanded(Some(false))),
            other => Err(format!("\\x is on or off, not {other:?}")),
        },
        "set" => Ok(Meta::Set(assignment(trimmed))),
        "unset" => Ok(Meta::Unset(required("an option")?.to_owned())),
        "i" | "ir" => Ok(Meta::Include {
            path: required("a file")?.trim_matches(['\'', '"']).to_owned(),
            relative: name == "ir",
        }),
        "!" => Ok(Meta::Run(arguments.to_owned())),
        "|" if arguments.is_empty() => Err("\\| needs a command".to_owned()),
        "|" => Ok(Meta::RunOutput(arguments.to_owned())),
        "echo" => Ok(Meta::Echo(arguments.to_owned())),
        "p" => none(Meta::Print),
        "r" => none(Meta::Reset),
        unknown => Err(format!("unknown command \\{unknown}; \\? lists the commands")),
    }
}

/// Reads `name`, `name value` or `name=value`, as `\set` and `--set` take them.
#[must_use]
pub(crate) fn assignment(text: &str) -> Option<(String, Option<String>)> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let end = text.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest);
    let value = unquoted(value.trim_start());
    let value = if rest.is_empty() { None } else { Some(value.to_owned()) };
    Some((name.to_owned(), value))
}

fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('\'').or_else(|| inner('"')).unwrap_or(text)
}

/// Checks that the text is one name, so that it cannot smuggle a second statement.
fn table_name(text: &str) -> Result<&str, String> {
    let split = crate::split::split(text);
    if text.contains(char::is_whitespace) && !text.contains('"')
        || !split.statements.is_empty()
        || split.open.is_some()
    {
        return Err(format!("{text:?} is not the name of a table"));
    }
    Ok(text)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| unquoted(word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn commands() {
        let mut text = String::new();
        for line in [
            "\\q",
            " quit; ",
            "exit",
            "\\?",
            "help",
            "\\h select",
            "\\l",
            "\\dt;",
            "\\d",
            "\\d shop.users",
            "\\d \"my table\"",
            "\\d+ t",
            "\\c",
            "\\c shop - db 5",
            "\\x",
            "\\x off",
            "\\set",
            "\\set echo",
            "\\set border 2",
            "\\set prompt1='a b '",
            "\\set prompt1=",
            "\\unset echo",
            "\\i 'a.sql'",
            "\\ir b.sql",
            "\\!ls -l; pwd",
            "\\! ",
            "\\| cat x",
            "\\echo a;b",
            "\\p",
            "\\r",
        ] {
            let meta = parse(line).unwrap().unwrap();
            text.push_str(&format!("{line} => {meta:?}\n"));
        }
        expect![[r#"
            \q => Quit
             quit;  => Quit
            exit => Quit
            \? => Help
            help => Help
            \h select => SqlHelp("select")
            \l => Statement("SHOW DATABASES")
            \dt; => Statement("SHOW TABLES")
            \d => Statement("SHOW TABLES")
            \d shop.users => Statement("SHOW COLUMNS FROM shop.users")
            \d "my table" => Statement("SHOW COLUMNS FROM \"my table\"")
            \d+ t => Statement("SHOW CREATE TABLE t")
            \c => Connect([])
            \c shop - db 5 => Connect(["shop", "-", "db", "5"])
            \x => Expanded(None)
            \x off => Expanded(Some(false))
            \set => Set(None)
            \set echo => Set(Some(("echo", None)))
            \set border 2 => Set(Some(("border", Some("2"))))
            \set prompt1='a b ' => Set(Some(("prompt1", Some("a b "))))
            \set prompt1= => Set(Some(("prompt1", Some(""))))
            \unset echo => Unset("echo")
            \i 'a.sql' => Include { path: "a.sql", relative: false }
            \ir b.sql => Include { path: "b.sql", relative: true }
            \!ls -l; pwd => Run("ls -l; pwd")
            \!  => Run("")
            \| cat x => RunOutput("cat x")
            \echo a;b => Echo("a;b")
            \p => Print
            \r => Reset
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn mistakes_are_named() {
        let mut text = String::new();
        for line in [
            "\\foo",
            "\\",
            "\\q now",
            "\\d a;b",
            "\\d a b",
            "\\d+",
            "\\x maybe",
            "\\unset",
            "\\i",
            "\\|",
        ] {
            let error = parse(line).unwrap().unwrap_err();
            text.push_str(&format!("{line} => {error}\n"));
        }
        expect![[r#"
            \foo => unknown command \foo; \? lists the commands
            \ => unknown command \; \? lists the commands
            \q now => \q takes no argument
            \d a;b => "a;b" is not the name of a table
            \d a b => "a b" is not the name of a table
            \d+ => \d+ needs a table
            \x maybe => \x is on or off, not "maybe"
            \unset => \unset needs an option
            \i => \i needs a file
            \| => \| needs a command
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn sql_is_no_command() {
        for line in ["", "select 1", "exit_code", "helpful", "-- \\q"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

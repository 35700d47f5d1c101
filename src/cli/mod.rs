//! The command line: one file a command, with its arguments, its call into a ceremony, and what
//! it prints.

mod add;
mod config;
mod generate;
mod keys;
mod lock;
mod pubkey;
mod replace;
mod session;
mod settings;
mod sign;
mod unlock;
mod verify;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    panic::{self, AssertUnwindSafe},
};

use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextValue, ErrorKind},
};

use crate::{
    error::{Error, Kind, Result},
    interrupt, memory,
    output::{Format, Output},
    redact::redact,
    signer::source::redacted,
};
use session::Session;
use settings::Globals;

/// Prove to a Qumulo cluster that you hold the private half of a lock key, wherever it lives.
#[derive(Parser)]
#[command(
    name = "qkey",
    version,
    after_help = "\
Exit codes: 0 done, or already so; 1 internal; 2 usage; 3 key; 4 mismatch; 5 refused; 6 auth;
7 unreachable; 8 unknown outcome; 9 partial; 130 interrupted; 143 terminated."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Add(add::Add),
    Replace(replace::Replace),
    Unlock(unlock::Unlock),
    Lock(lock::Lock),
    Keys(keys::Keys),
    Generate(generate::Generate),
    Pubkey(pubkey::Pubkey),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Config(config::Config),
}

/// Parses the command line, runs the command, reports an error, and returns the exit code.
pub fn main() -> u8 {
    memory::protect();
    panic::set_hook(Box::new(|panic| {
        // The message may quote what a user typed.
        eprintln!("{}", redact(&panic.to_string()));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
    }));
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return report_usage(error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return report_usage(error),
    };
    let mut output = cli.globals.output();
    // A machine without a thread to spare makes the standard library panic.
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(cli, &matches, &mut output)));
    let result = result.unwrap_or_else(|_| {
        interrupt::end_children();
        Err(Error::new(Kind::Internal, "qkey itself failed").hint(
            "if the message above names no lack of memory or threads, it is a bug; run this again: it looks first what was done",
        ))
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            output.error(&error);
            error.kind().exit_code()
        }
    }
}

/// `output` is set to what the configuration says, as soon as that is known.
fn run(cli: Cli, matches: &ArgMatches, output: &mut Output) -> Result<()> {
    interrupt::install().map_err(|error| {
        Error::new(Kind::Internal, "cannot watch for signals").caused_by(&error)
    })?;
    let command = match cli.command {
        // The one command that must work while the configuration file is wrong.
        Command::Config(config::Config {
            command: config::Action::Init(init),
        }) => return init.run(&cli.globals, *output),
        command => command,
    };
    let session = Session::start(cli.globals, matches)?;
    *output = session.output;
    let last_output = session.output;
    interrupt::report_with(move |error| last_output.error(error));
    match command {
        Command::Add(command) => command.run(&session),
        Command::Replace(command) => command.run(&session),
        Command::Unlock(command) => command.run(&session),
        Command::Lock(command) => command.run(&session),
        Command::Keys(command) => command.run(&session),
        Command::Generate(command) => command.run(&session),
        Command::Pubkey(command) => command.run(&session),
        Command::Sign(command) => command.run(&session),
        Command::Verify(command) => command.run(&session),
        Command::Config(command) => command.run(&session),
    }
}

/// Help and version go to stdout; what is wrong, to stderr in the form that was asked for.
fn report_usage(error: clap::Error) -> u8 {
    let error = without_secrets(error);
    let wrong =
        error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !(wrong && wants_json()) {
        // A terminal that is gone cannot be told so.
        let _ = error.print();
        return match error.use_stderr() {
            true => Kind::Usage.exit_code(),
            false => 0,
        };
    }
    let text = error.to_string();
    let mut paragraphs = text.trim().split("\n\n");
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines: Vec<&str> = message.lines().map(str::trim).collect();
    let output = Output {
        format: Format::Json,
        ..Output::default()
    };
    output
        .error(&Error::new(Kind::Usage, lines.join(" ")).hint("`qkey --help` shows what there is"));
    Kind::Usage.exit_code()
}

/// An argument that is not expected may be a key source with a secret.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| {
            let shown = match value {
                ContextValue::String(text) => ContextValue::String(redacted(text)),
                ContextValue::Strings(texts) => {
                    ContextValue::Strings(texts.iter().map(|text| redacted(text)).collect())
                }
                // Advice on how to write the argument, which it quotes.
                ContextValue::StyledStrs(texts) => ContextValue::StyledStrs(
                    texts
                        .iter()
                        .map(|text| redact(&text.to_string()).into())
                        .collect(),
                ),
                _ => return None,
            };
            Some((kind, shown))
        })
        .collect();
    for (kind, shown) in quoted {
        error.insert(kind, shown);
    }
    error
}

/// Whether the command line asks for JSON, though it could not be parsed.
fn wants_json() -> bool {
    let args: Vec<_> = env::args_os().collect();
    let asks_for = |format: &str| {
        let flag = format!("--output={format}");
        args.iter().any(|arg| *arg == *flag)
            || args
                .windows(2)
                .any(|pair| pair[0] == "--output" && pair[1] == format)
    };
    let by_environment = || env::var_os("QKEY_OUTPUT").is_some_and(|value| value == "json");
    asks_for("json") || !asks_for("text") && by_environment()
}

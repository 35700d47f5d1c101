//! The command line: one file per command, with its arguments, its call into a ceremony, and what it
//! prints.

mod add;
mod config;
mod generate;
mod help;
mod keys;
mod lock;
mod proof;
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
    io::Write,
    panic::{self, AssertUnwindSafe},
};

use clap::{
    ArgMatches, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    error::{Error, Kind, Result},
    interrupt::{self, CONFIRM_GRACE, SUBMIT_GRACE},
    memory,
    output::{self, Color, Format, Output},
    redact::redact,
    signer::registry::redacted,
    suggest, text, wipe,
};
use session::Session;
use settings::Globals;

/// Manage Qumulo lock keys: add, replace, lock, unlock, prove
#[derive(Parser)]
#[command(name = "qkey", version, disable_help_subcommand = true)]
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
    Help(help::Help),
}

/// Parses the command line, runs the command, reports an error, and returns the exit code.
pub fn main() -> u8 {
    wipe::protect();
    memory::share_arena();
    panic::set_hook(Box::new(|panic| {
        // The message may quote user input.
        eprintln!("{}", redact(&panic.to_string()));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            eprintln!("{backtrace}");
        }
    }));
    let matches = match help::command().try_get_matches() {
        Ok(matches) => matches,
        // clap prints the overview only if no option is set, by a variable either.
        Err(error) if error.kind() == ErrorKind::MissingSubcommand && !wants_json() => {
            let overview = help::command().render_help();
            // If stderr is closed, there is nowhere to report it.
            let _ = write!(anstream::stderr(), "{}", overview.ansi());
            return Kind::Usage.exit_code();
        }
        Err(error) => return report_usage(error),
    };
    if let Some(page) = help::nested(&matches) {
        return show(page, &Output::new(Format::Text, Color::default()));
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return report_usage(error),
    };
    let mut output = cli.globals.output();
    if let Command::Help(help) = &cli.command {
        return show(help.page(), &output);
    }
    memory::report_as(output.format);
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(cli, &matches, &mut output)));
    let result = result.unwrap_or_else(|_| {
        interrupt::end_children();
        Err(Error::new(Kind::Internal, "qkey crashed").hint(
            "this is a bug: please report the message above; rerunning is safe: qkey first checks what was done",
        ))
    });
    exit_code(result, &output)
}

/// Prints a page of help; returns the exit code.
fn show(page: help::Page, output: &Output) -> u8 {
    match page {
        help::Page::Topic(text) => exit_code(output.raw(text.as_bytes()), output),
        help::Page::Command(line) => match help::command().try_get_matches_from(line) {
            Ok(_) => 0,
            Err(error) => report_usage(error),
        },
    }
}

/// Reports an error; returns the exit code.
fn exit_code(result: Result<()>, output: &Output) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            output.error(&error);
            error.kind().exit_code()
        }
    }
}

/// Sets `output` as the configuration says, once that is read.
fn run(cli: Cli, matches: &ArgMatches, output: &mut Output) -> Result<()> {
    memory::watch_for_aborts()
        .and_then(|()| interrupt::install())
        .map_err(|error| {
            Error::new(Kind::Internal, "cannot watch for signals")
                .caused_by(&error)
                .hint("raise the memory and process limits (see `ulimit -a`)")
        })?;
    let command = match cli.command {
        // It must work even if the configuration file is invalid.
        Command::Config(config::Config {
            command: Some(config::Action::Init(init)),
        }) => return init.run(&cli.globals, output),
        command => command,
    };
    let session = Session::start(cli.globals, matches)?;
    *output = session.output.clone();
    let last_output = session.output.clone();
    interrupt::report_with(move |error| last_output.error(error));
    // A script expects one object on stderr, and waits regardless.
    if session.output.format == Format::Text {
        interrupt::tell_of_waiting_with(|| {
            log::warn!(
                "stopping; waiting up to {} s for what was already sent (a second signal stops at once)",
                (SUBMIT_GRACE + CONFIRM_GRACE).as_secs()
            );
        });
    }
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
        Command::Help(_) => unreachable!("it runs without a session"),
    }
}

/// Help and version go to stdout; usage errors to stderr, in the output format.
fn report_usage(error: clap::Error) -> u8 {
    let error = made_safe(error);
    let format = if wants_json() {
        Format::Json
    } else {
        Format::Text
    };
    let output = Output::new(format, Color::default());
    let wrong = error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    match (error.use_stderr(), format) {
        (true, Format::Json) if wrong => {
            let text = error.to_string();
            let message = text.trim().split("\n\n").next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message);
            let lines: Vec<&str> = message.lines().map(str::trim).collect();
            let error = Error::new(Kind::Usage, lines.join(" ")).hint("see `qkey --help`");
            exit_code(Err(error), &output)
        }
        (true, _) => {
            // If stderr is closed, there is nowhere to report it.
            let _ = error.print();
            Kind::Usage.exit_code()
        }
        (false, _) => exit_code(output::help(&error), &output),
    }
}

/// The same error without secrets and control characters: an unexpected argument may be a key source
/// with a secret.
fn made_safe(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::InvalidSubcommand {
        suggest_command(&mut error);
    }
    let mut has_invisible = false;
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| {
            let shown = match value {
                ContextValue::String(text) => {
                    let text = redacted(text);
                    let shown = text::value(&text);
                    has_invisible |= shown != text;
                    ContextValue::String(shown)
                }
                ContextValue::Strings(texts) => {
                    ContextValue::Strings(texts.iter().map(|text| redacted(text)).collect())
                }
                // Advice that quotes the argument.
                ContextValue::StyledStrs(texts) => {
                    let shown = texts.iter().map(|text| redact(&text.to_string()).into());
                    ContextValue::StyledStrs(shown.collect())
                }
                _ => return None,
            };
            Some((kind, shown))
        })
        .collect();
    for (kind, shown) in quoted {
        error.insert(kind, shown);
    }
    if has_invisible {
        // Suggestions repeat the argument in styled text that cannot be escaped afterwards.
        error.insert(ContextKind::Suggested, ContextValue::None);
    }
    error
}

/// Drops suggestions that merely share letters: clap suggests `generate` for `delete`.
fn suggest_command(error: &mut clap::Error) {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let wrong = context(ContextKind::InvalidSubcommand).concat();
    let mut suggested = context(ContextKind::SuggestedSubcommand);
    suggested.retain(|name| suggest::nearest(&wrong, [name.as_str()]).is_some());
    error.remove(ContextKind::SuggestedSubcommand);
    if !suggested.is_empty() {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(suggested),
        );
    }
}

/// Whether a command line that cannot be parsed requests JSON.
fn wants_json() -> bool {
    let args: Vec<_> = env::args_os().collect();
    let asks_for = |format: &str| {
        let flag = format!("--output={format}");
        let pairs = args.windows(2);
        args.iter().any(|arg| *arg == *flag)
            || pairs
                .into_iter()
                .any(|pair| pair[0] == "--output" && pair[1] == format)
    };
    let by_environment = env::var_os("QKEY_OUTPUT").is_some_and(|value| value == "json");
    asks_for("json") || !asks_for("text") && by_environment
}

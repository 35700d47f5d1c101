//! What `--help` and `qkey help` print.
//!
//! A command's help shows its own options and examples first. The global options follow, one line
//! each, and those about a cluster only where the command talks to one.

use clap::{Arg, ArgMatches, Args, Command, CommandFactory, builder::StyledStr};

use crate::signer::registry::KINDS;

use super::Cli;

/// Show help for a command or topic
#[derive(Args)]
pub struct Help {
    /// Command, or topic: exit-codes, environment, key-sources
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

/// What to show.
pub enum Page {
    /// The text of a topic.
    Topic(String),
    /// The command line whose output is the page.
    Command(Vec<String>),
}

impl Help {
    /// The page to show.
    pub fn page(&self) -> Page {
        match self.words.as_slice() {
            [topic] if topic == "exit-codes" => {
                Page::Topic(include_str!("topics/exit-codes.txt").to_owned())
            }
            [topic] if topic == "environment" => {
                Page::Topic(include_str!("topics/environment.txt").to_owned())
            }
            [topic] if topic == "key-sources" => Page::Topic(key_sources()),
            words => page_of(words.iter().map(String::as_str)),
        }
    }
}

/// The page for `qkey COMMAND help …`.
pub fn nested(matches: &ArgMatches) -> Option<Page> {
    let (command, matches) = matches.subcommand()?;
    let (_, help) = matches.subcommand().filter(|(name, _)| *name == HELP)?;
    let words = help.get_many::<String>(WORDS).into_iter().flatten();
    Some(page_of(
        std::iter::once(command).chain(words.map(String::as_str)),
    ))
}

fn page_of<'w>(words: impl Iterator<Item = &'w str>) -> Page {
    let line = std::iter::once("qkey").chain(words).chain(["--help"]);
    Page::Command(line.map(str::to_owned).collect())
}

const HELP: &str = "help";
const WORDS: &str = "words";

fn key_sources() -> String {
    let mut text = include_str!("topics/key-sources.txt").to_owned();
    for kind in KINDS {
        text.push_str(&format!("  {}\n", kind.form));
        let secret = kind
            .secret
            .map(|secret| format!("{secret}-env|file|fd|command"));
        let mut attributes = kind.attributes.to_vec();
        attributes.extend(secret.as_deref());
        if !attributes.is_empty() {
            text.push_str(&format!("      ?{}\n", attributes.join(", ")));
        }
    }
    text.push_str(include_str!("topics/key-sources-end.txt"));
    text
}

/// The commands that never talk to a cluster.
const OFFLINE: [&str; 6] = [
    "generate",
    "pubkey",
    "sign",
    "verify",
    "config init",
    "help",
];

/// The examples of each command: its name, and below it one command line per line.
const EXAMPLES: &str = include_str!("topics/examples.txt");

const TOPICS: &str = "\
See `qkey COMMAND --help` for a command, and `qkey help TOPIC` for these topics:
exit-codes, environment, key-sources";

/// The command line, with its help pages.
pub fn command() -> Command {
    let mut command = Cli::command();
    command.build();
    let header = command.get_styles().get_header();
    let section = |heading: &str| {
        let options = command
            .get_arguments()
            .filter(|arg| arg.is_global_set() && arg.get_help_heading() == Some(heading))
            .map(|arg| {
                let takes_value = arg.get_action().takes_values();
                arg.clone()
                    .help_heading(None::<&str>)
                    .hide_env(true)
                    .hide_possible_values(takes_value)
            });
        let rendered = Command::new("qkey")
            .disable_help_flag(true)
            .disable_version_flag(true)
            .help_template("{options}")
            .args(options)
            .render_help();
        let options = rendered.ansi().to_string();
        format!("{header}{heading}:{header:#}\n{}", options.trim_end())
    };
    let user = section("Global options");
    let pages = Pages {
        both: format!("{}\n\n{user}", section("Cluster options")),
        user,
        header: format!("{header}Examples:{header:#}"),
    };
    Cli::command()
        .mut_args(|arg| {
            if arg.is_global_set() {
                arg.hide(true)
            } else {
                arg
            }
        })
        .after_help(TOPICS)
        .after_long_help(StyledStr::from(format!("{}\n\n{TOPICS}", pages.both)))
        .mut_subcommands(|sub| pages.add_to(sub, ""))
}

struct Pages {
    user: String,
    both: String,
    header: String,
}

impl Pages {
    fn add_to(&self, command: Command, parent: &str) -> Command {
        let path = format!("{parent} {}", command.get_name());
        let path = path.trim_start();
        let options = if OFFLINE.contains(&path) {
            &self.user
        } else {
            &self.both
        };
        let examples = EXAMPLES
            .split("\n\n")
            .filter_map(|page| page.split_once('\n'));
        let examples = examples.into_iter().find(|(name, _)| *name == path);
        let text = match examples {
            Some((_, lines)) => format!("{}\n{}\n\n{options}", self.header, lines.trim_end()),
            None => options.clone(),
        };
        let command = command
            .after_help(StyledStr::from(text))
            .mut_subcommands(|sub| self.add_to(sub, path));
        if !command.has_subcommands() {
            return command;
        }
        // clap's own is off everywhere, because only `qkey help` knows the topics.
        let words = Arg::new(WORDS).num_args(0..);
        command.subcommand(Command::new(HELP).hide(true).arg(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn every_example_parses() {
        let lines = EXAMPLES.lines().filter_map(|line| line.strip_prefix("  "));
        for line in lines {
            let parsed = command().try_get_matches_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn environment_topic_lists_every_variable() {
        let text = include_str!("topics/environment.txt");
        for arg in Cli::command().get_arguments() {
            if let Some(name) = arg.get_env().and_then(|name| name.to_str()) {
                let flag = format!("--{}", arg.get_long().unwrap_or_default());
                let listed = text
                    .lines()
                    .any(|line| line.contains(&format!("{name} ")) && line.contains(&flag));
                assert!(listed, "{name} {flag}");
            }
        }
    }

    #[test]
    fn exit_codes_topic_lists_every_kind() {
        let text = include_str!("topics/exit-codes.txt");
        for kind in [
            Kind::Internal,
            Kind::Usage,
            Kind::Key,
            Kind::Mismatch,
            Kind::Refused,
            Kind::Auth,
            Kind::Unreachable,
            Kind::Unknown,
            Kind::Partial,
            Kind::Interrupted,
            Kind::Terminated,
        ] {
            let name = serde_json::to_value(kind).unwrap();
            let row = format!("{:>5} {} ", kind.exit_code(), name.as_str().unwrap());
            assert!(text.contains(&row), "{row}");
        }
    }
}

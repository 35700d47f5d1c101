//! What a failed `qq` printed, classified.

use std::sync::LazyLock;

use regex::Regex;

use crate::{cluster::reply::shortened, subprocess::Failure};

/// Why `qq` failed, with its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// An error of the REST API.
    Api {
        status: u16,
        words: String,
    },
    /// A status without an error of the REST API.
    Status {
        status: u16,
        words: String,
    },
    Said(Class, String),
}

/// What else `qq` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The host name does not exist; nothing was sent.
    UnknownHost,
    /// There was no connection; nothing was sent.
    NotConnected,
    /// No reply arrived in time; the cluster may have received the request.
    TimedOut,
    /// The connection broke; the cluster may have received the request.
    Lost,
    /// The reply is not JSON.
    NotJson,
    /// The credentials file is unreadable; nothing was sent.
    Credentials,
    /// A `ValueError` inside `qq`.
    Error,
    /// An exception that `qq` did not expect.
    Crash,
    /// `--host` is missing; nothing was sent.
    NoHost,
    /// The command does not exist; nothing was sent.
    UnknownCommand,
    /// argparse rejected the arguments; nothing was sent.
    Arguments,
}

/// Where a complaint can begin. Warnings may precede it.
const BEGINNINGS: &str =
    r"(?m)^(?:Error \d{3}: |Connection error: |Command error: |Traceback \(most|usage: )";

/// The first pattern that matches at a beginning decides. Each captures the words to show.
///
/// Connection errors other than those of name resolution and `connect` may occur after the request was
/// sent. The last line of a traceback names the exception.
const TABLE: [(&str, Class); 15] = [
    (
        r"Connection error: ((?:\[Errno -?\d+\] )?(?:Name or service not known|No address associated with hostname|nodename nor servname provided).*)",
        Class::UnknownHost,
    ),
    (
        r"Connection error: ((?:\[Errno -?\d+\] )?(?:Connection refused|No route to host|Network is unreachable|Temporary failure in name resolution).*)",
        Class::NotConnected,
    ),
    (
        r"Connection error: ((?:[^\n]* )?timed out.*)",
        Class::TimedOut,
    ),
    (r"Connection error: (.*)", Class::Lost),
    (r"Command error: ([^\n]*Error loading data.*)", Class::Error),
    (
        r"Command error: ([^\n]*: line \d+ column \d+ \(char \d+\).*)",
        Class::Credentials,
    ),
    (r"Command error: (.*CredentialsError.*)", Class::Credentials),
    (r"Command error: (.*)", Class::Error),
    (
        r"Traceback .*\n([^\n]*\bError loading data\b[^\n]*)\z",
        Class::NotJson,
    ),
    (
        r"Traceback .*\n([\w.]*CredentialsError\b[^\n]*|[\w.]+: [^\n]*: line \d+ column \d+ \(char \d+\))\z",
        Class::Credentials,
    ),
    (
        r"Traceback .*\n(http\.client\.IncompleteRead\b[^\n]*)\z",
        Class::Lost,
    ),
    (r"Traceback (?:.*\n)?([^\n]*)\z", Class::Crash),
    (
        r"usage: .*?: error: ([^\n]*required: [^\n]*--host\b[^\n]*)",
        Class::NoHost,
    ),
    (
        r"usage: .*?: error: ([^\n]*invalid choice: [^\n]*)",
        Class::UnknownCommand,
    ),
    (r"usage: .*?: error: ([^\n]*)", Class::Arguments),
];

/// Where a complaint begins, what the API refused, and [`TABLE`].
type Patterns = (Regex, Regex, Vec<(Regex, Class)>);

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let compiled = |pattern: &str| Regex::new(pattern).expect("a valid pattern");
    let table = TABLE.map(|(pattern, class)| (compiled(&format!(r"(?s)\A{pattern}")), class));
    (
        compiled(BEGINNINGS),
        compiled(r"(?s)\AError (\d{3}): (unknown: )?(.*)"),
        table.into(),
    )
});

/// What `qq` said when it failed: 7.x on stderr, 6.x on stdout, where warnings do not
/// appear.
pub(super) fn complaint(failure: &Failure) -> Option<Complaint> {
    let Failure::Exited { code, output, .. } = failure else {
        return None;
    };
    [&output.stderr, &output.stdout]
        .into_iter()
        .filter_map(|stream| classify(&String::from_utf8_lossy(stream)))
        .find(|complaint| match complaint {
            // A wrapper around qq may print its own usage at any time; argparse's code is 2.
            Complaint::Said(class, _) if class.is_usage() => *code == 2,
            _ => true,
        })
}

fn classify(text: &str) -> Option<Complaint> {
    let (beginnings, status, table) = &*PATTERNS;
    let text = text.trim_end();
    beginnings.find_iter(text).find_map(|beginning| {
        let rest = &text[beginning.start()..];
        if let Some(found) = status.captures(rest) {
            let (status, words) = (found[1].parse().ok()?, shortened(&found[3]));
            return Some(match found.get(2) {
                // qq's own class for a body without one.
                Some(_) => Complaint::Status { status, words },
                None => Complaint::Api { status, words },
            });
        }
        table.iter().find_map(|(pattern, class)| {
            let words = shortened(&pattern.captures(rest)?[1]);
            Some(Complaint::Said(*class, words))
        })
    })
}

impl Class {
    /// Whether argparse said it, before anything was sent.
    pub fn is_usage(self) -> bool {
        matches!(self, Self::NoHost | Self::UnknownCommand | Self::Arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(class: Class, words: &str) -> Option<Complaint> {
        Some(Complaint::Said(class, words.to_owned()))
    }

    #[test]
    fn api_error_after_warnings_is_kept_whole() {
        let stderr = "x.py:1: DeprecationWarning: old\n  import x\n\
                      Error 404: fs_no_such_entry_error: no key\nsecond line (inner: why)\n";
        let words = "fs_no_such_entry_error: no key\nsecond line (inner: why)".to_owned();
        assert_eq!(
            classify(stderr),
            Some(Complaint::Api { status: 404, words })
        );
        let words = "<html>".to_owned();
        let expected = Some(Complaint::Status { status: 502, words });
        assert_eq!(classify("Error 502: unknown: <html>\n"), expected);
    }

    #[test]
    fn connection_errors_tell_whether_anything_was_sent() {
        for (words, class) in [
            ("[Errno 111] Connection refused", Class::NotConnected),
            (
                "[Errno -3] Temporary failure in name resolution",
                Class::NotConnected,
            ),
            ("[Errno -2] Name or service not known", Class::UnknownHost),
            ("Remote end closed connection without response", Class::Lost),
            ("[Errno 104] Connection reset by peer", Class::Lost),
            ("reset after Connection refused", Class::Lost),
            ("The read operation timed out", Class::TimedOut),
            ("timed out", Class::TimedOut),
            ("[Errno 110] Connection timed out", Class::TimedOut),
        ] {
            let complaint = classify(&format!("Connection error: {words}\n"));
            assert_eq!(complaint, said(class, words));
        }
    }

    #[test]
    fn unreadable_credentials_differ_from_unreadable_replies() {
        let json = "Expecting value: line 1 column 1 (char 0)";
        let traceback = |last: &str| {
            format!(
                "Traceback (most recent call last):\n  File \"x\", line 1, in f\n    g()\n{last}\n"
            )
        };
        let command = format!("Command error: {json}\n");
        assert_eq!(classify(&command), said(Class::Credentials, json));
        for (last, class) in [
            (
                format!("json.decoder.JSONDecodeError: {json}"),
                Class::Credentials,
            ),
            (
                "qumulo.lib.auth.CredentialsError: no".to_owned(),
                Class::Credentials,
            ),
            (
                format!("qumulo.lib.request.APIException: Error loading data: {json}"),
                Class::NotJson,
            ),
            (
                "http.client.IncompleteRead: IncompleteRead(5 bytes read)".to_owned(),
                Class::Lost,
            ),
            (
                "http.client.InvalidURL: URL can't contain control characters.".to_owned(),
                Class::Crash,
            ),
            ("KeyboardInterrupt".to_owned(), Class::Crash),
        ] {
            assert_eq!(classify(&traceback(&last)), said(class, &last));
        }
    }

    #[test]
    fn usage_errors_are_recognized() {
        for (words, class) in [
            (
                "the following arguments are required: --host",
                Class::NoHost,
            ),
            (
                "argument : invalid choice: 'fs_x' (choose from 'ad_join')",
                Class::UnknownCommand,
            ),
            (
                "one of the arguments -i/--id -n/--name is required",
                Class::Arguments,
            ),
        ] {
            let stderr = format!(
                "usage: qq fs_security_get_key [-h] [--host HOST]\n          [--json]\nqq: error: {words}\n"
            );
            assert_eq!(classify(&stderr), said(class, words));
        }
    }

    #[test]
    fn other_output_is_not_classified() {
        for text in [
            "",
            "Error 4040: no status\n",
            "an Error 404: x\n",
            "qq: error: x\n",
        ] {
            assert_eq!(classify(text), None);
        }
    }
}

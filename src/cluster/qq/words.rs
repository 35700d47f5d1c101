//! Classifies what a failed `qq` printed.

use std::{
    io::{self, ErrorKind},
    sync::{Arc, LazyLock},
};

use regex::Regex;

use crate::{
    cluster::{
        failure::{Failure, Unexpected},
        reply::shortened,
    },
    http::{self, Failure as Http},
    subprocess,
};

/// Where a complaint can begin. Warnings may precede it.
const BEGINNINGS: &str =
    r"(?m)^(?:Error \d{3}: |Connection error: |Command error: |Traceback \(most|usage: )";

/// Makes a failure from the words of `qq`.
type Class = fn(String) -> Failure;

const UNKNOWN_HOST: Class =
    |words| connection(Http::UnknownHost, ErrorKind::HostUnreachable, words);
const NOT_CONNECTED: Class = |words| connection(Http::NotConnected, ErrorKind::NotConnected, words);
const TIMED_OUT: Class = |words| connection(Http::Lost, ErrorKind::TimedOut, words);
const LOST: Class = |words| connection(Http::Lost, ErrorKind::ConnectionAborted, words);

fn connection(failure: fn(http::Cause) -> Http, kind: ErrorKind, words: String) -> Failure {
    Failure::Connection(failure(Arc::new(io::Error::new(kind, words))))
}

/// The first pattern that matches at a beginning decides. Each captures the words to show.
///
/// Except for errors of name resolution and `connect`, a connection error may occur after `qq` sent the
/// request. The last line of a traceback names the exception.
const TABLE: [(&str, Class); 15] = [
    (
        r"Connection error: ((?:\[Errno -?\d+\] )?(?:Name or service not known|No address associated with hostname|nodename nor servname provided).*)",
        UNKNOWN_HOST,
    ),
    (
        r"Connection error: ((?:\[Errno -?\d+\] )?(?:Connection refused|No route to host|Network is unreachable|Temporary failure in name resolution).*)",
        NOT_CONNECTED,
    ),
    (r"Connection error: ((?:[^\n]* )?timed out.*)", TIMED_OUT),
    (r"Connection error: (.*)", LOST),
    (
        r"Command error: ([^\n]*Error loading data.*)",
        Failure::QqError,
    ),
    (
        r"Command error: ([^\n]*: line \d+ column \d+ \(char \d+\).*)",
        Failure::QqCredentials,
    ),
    (
        r"Command error: (.*CredentialsError.*)",
        Failure::QqCredentials,
    ),
    (r"Command error: (.*)", Failure::QqError),
    (
        r"Traceback .*\n([^\n]*\bError loading data\b[^\n]*)\z",
        |words| Failure::Unexpected(Unexpected::Qq(words), None),
    ),
    (
        r"Traceback .*\n([\w.]*CredentialsError\b[^\n]*|[\w.]+: [^\n]*: line \d+ column \d+ \(char \d+\))\z",
        Failure::QqCredentials,
    ),
    (
        r"Traceback .*\n(http\.client\.IncompleteRead\b[^\n]*)\z",
        LOST,
    ),
    (r"Traceback (?:.*\n)?([^\n]*)\z", Failure::QqCrash),
    (
        r"usage: .*?: error: ([^\n]*required: [^\n]*--host\b[^\n]*)",
        |_| Failure::QqWithoutHost,
    ),
    (r"usage: .*?: error: ([^\n]*invalid choice: [^\n]*)", |_| {
        Failure::QqCommand
    }),
    (r"usage: .*?: error: ([^\n]*)", Failure::QqArguments),
];

/// [`BEGINNINGS`], a refusal of the API, and [`TABLE`].
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

/// What `qq` complained about, if it did: 7.x on stderr, 6.x on stdout, where no warnings appear.
pub(super) fn complaint(code: i32, output: &subprocess::Output) -> Option<Failure> {
    [&output.stderr, &output.stdout]
        .into_iter()
        .filter_map(|stream| classify(&String::from_utf8_lossy(stream)))
        // A wrapper around qq may print its own usage at any time; argparse's code is 2.
        .find(|failure| code == 2 || !failure.is_usage())
}

fn classify(text: &str) -> Option<Failure> {
    let (beginnings, status, table) = &*PATTERNS;
    let text = text.trim_end();
    beginnings.find_iter(text).find_map(|beginning| {
        let rest = &text[beginning.start()..];
        if let Some(found) = status.captures(rest) {
            let (status, words) = (found[1].parse().ok()?, shortened(&found[3]));
            return Some(match found.get(2) {
                // qq's own class for a body without one.
                Some(_) => Failure::status(status, words, None),
                None => Failure::api(status, words, None),
            });
        }
        table.iter().find_map(|(pattern, class)| {
            let words = shortened(&pattern.captures(rest)?[1]);
            Some(class(words))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &str, expected: impl Into<Option<Failure>>) {
        let expected: Option<Failure> = expected.into();
        let found = classify(output);
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{output}");
    }

    #[test]
    fn api_error_after_warnings_is_kept_whole() {
        let stderr = "x.py:1: DeprecationWarning: old\n  import x\n\
                      Error 404: fs_no_such_entry_error: no key\nsecond line (inner: why)\n";
        let words = "fs_no_such_entry_error: no key\nsecond line (inner: why)".to_owned();
        check(stderr, Failure::api(404, words, None));
        let excerpt = "<html>".to_owned();
        check(
            "Error 502: unknown: <html>\n",
            Failure::status(502, excerpt, None),
        );
    }

    #[test]
    fn connection_errors_tell_whether_anything_was_sent() {
        for (words, class) in [
            ("[Errno 111] Connection refused", NOT_CONNECTED),
            (
                "[Errno -3] Temporary failure in name resolution",
                NOT_CONNECTED,
            ),
            ("[Errno -2] Name or service not known", UNKNOWN_HOST),
            ("Remote end closed connection without response", LOST),
            ("[Errno 104] Connection reset by peer", LOST),
            ("reset after Connection refused", LOST),
            ("The read operation timed out", TIMED_OUT),
            ("timed out", TIMED_OUT),
            ("[Errno 110] Connection timed out", TIMED_OUT),
        ] {
            let output = format!("Connection error: {words}\n");
            check(&output, class(words.to_owned()));
        }
    }

    #[test]
    fn unreadable_credentials_differ_from_unreadable_replies() {
        const JSON: &str = "Expecting value: line 1 column 1 (char 0)";
        let command = format!("Command error: {JSON}\n");
        check(&command, Failure::QqCredentials(JSON.to_owned()));
        let cases: [(&str, Class); 6] = [
            (
                "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
                Failure::QqCredentials,
            ),
            (
                "qumulo.lib.auth.CredentialsError: no",
                Failure::QqCredentials,
            ),
            (
                "qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)",
                |words| Failure::Unexpected(Unexpected::Qq(words), None),
            ),
            (
                "http.client.IncompleteRead: IncompleteRead(5 bytes read)",
                LOST,
            ),
            (
                "http.client.InvalidURL: URL can't contain control characters.",
                Failure::QqCrash,
            ),
            ("KeyboardInterrupt", Failure::QqCrash),
        ];
        for (last, class) in cases {
            let traceback = format!(
                "Traceback (most recent call last):\n  File \"x\", line 1, in f\n    g()\n{last}\n"
            );
            check(&traceback, class(last.to_owned()));
        }
    }

    #[test]
    fn usage_errors_are_recognized() {
        let arguments = "one of the arguments -i/--id -n/--name is required";
        for (words, failure) in [
            (
                "the following arguments are required: --host",
                Failure::QqWithoutHost,
            ),
            (
                "argument : invalid choice: 'fs_x' (choose from 'ad_join')",
                Failure::QqCommand,
            ),
            (arguments, Failure::QqArguments(arguments.to_owned())),
        ] {
            let stderr = format!(
                "usage: qq fs_security_get_key [-h] [--host HOST]\n          [--json]\nqq: error: {words}\n"
            );
            check(&stderr, failure);
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
            check(text, None);
        }
    }
}

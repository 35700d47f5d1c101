//! Sessions at a shell, and tables of cases: inputs and what comes of them, in one snapshot.

use std::{collections::BTreeMap, sync::Mutex};

use super::{
    qkey::{Qkey, side_by_side},
    shell,
    snapshot::filter,
};

/// Runs the command lines of a snapshot, which follow `$ `, and compares what they print with it:
/// `assert_session!(qkey, str![[r#"…"#]])`. A third argument filters each output.
///
/// An output belongs to every input directly above it. A hint that repeats the one before it is left
/// out, and the line with the exit code says so. No output at all shows as `--- exit 0`.
macro_rules! assert_session {
    ($qkey:expr, $expected:expr $(,)?) => {
        $crate::support::session::assert_session!($qkey, $expected, |text| text.to_owned())
    };
    ($qkey:expr, $expected:expr, $filter:expr $(,)?) => {{
        let expected = snapbox::IntoData::raw($expected);
        let played = $crate::support::session::play(&$qkey, &expected.to_string(), $filter);
        snapbox::assert_data_eq!(played, expected)
    }};
}
pub(crate) use assert_session;

/// As [`assert_session`], for cases that follow `==== `: runs a closure on each of them, several at a
/// time, and compares the texts that it returns.
macro_rules! assert_cases {
    ($expected:expr, $run:expr $(,)?) => {{
        let expected = snapbox::IntoData::raw($expected);
        let played = $crate::support::session::play_cases(&expected.to_string(), $run);
        snapbox::assert_data_eq!(played, expected)
    }};
}
pub(crate) use assert_cases;

/// The endings of an error that say what to do next.
const USAGE: &str = "\nFor more information, try '--help'.\n";
const HINT: &str = "\nhint: ";

/// Runs the command lines of a session in their order.
pub fn play(qkey: &Qkey, session: &str, also: impl Fn(&str) -> String) -> String {
    let run = |line: &&str| also(&filter(&shell::run(qkey, line).transcript()));
    let lines: Vec<&str> = inputs(session, "$ ");
    let outputs: Vec<String> = lines.iter().map(run).collect();
    write("$ ", &lines, &outputs)
}

/// Runs the cases of a table, several at a time.
pub fn play_cases(table: &str, run: impl Fn(&str) -> String + Sync) -> String {
    let cases = inputs(table, "==== ");
    let outputs = Mutex::new(BTreeMap::new());
    side_by_side(&cases, |case| {
        let output = filter(&run(case));
        let mut outputs = outputs.lock().expect("no case panicked");
        outputs.insert(case.to_owned(), output);
        String::new()
    });
    let outputs = outputs.into_inner().expect("no case panicked");
    let outputs: Vec<String> = cases.iter().map(|case| outputs[*case].clone()).collect();
    write("==== ", &cases, &outputs)
}

fn inputs<'s>(session: &'s str, mark: &str) -> Vec<&'s str> {
    let lines = session.lines();
    lines.filter_map(|line| line.strip_prefix(mark)).collect()
}

/// Writes down the inputs and their outputs.
fn write(mark: &str, inputs: &[&str], outputs: &[String]) -> String {
    let mut text = String::new();
    let mut hint = String::new();
    for (index, (input, output)) in inputs.iter().zip(outputs).enumerate() {
        text += &format!("{mark}{input}\n");
        if outputs.get(index + 1) != Some(output) {
            text += &shorten(output, &mut hint);
        }
    }
    text
}

/// Leaves out a hint that repeats the last one.
fn shorten(output: &str, last: &mut String) -> String {
    if output.is_empty() {
        return "--- exit 0\n".to_owned();
    }
    let start = match output.strip_suffix(USAGE) {
        Some(rest) => rest.len(),
        None if output.matches(HINT).count() == 1 => {
            output.find(HINT).map_or(output.len(), |start| start + 1)
        }
        None => output.len(),
    };
    let (rest, hint) = output.split_at(start);
    if !hint.is_empty()
        && hint == last
        && let Some((before, after)) = rest.split_once("--- exit ")
    {
        let (code, after) = after.split_once('\n').unwrap_or((after, ""));
        return format!("{before}--- exit {code}, hint as above\n{after}");
    }
    if !hint.is_empty() {
        hint.clone_into(last);
    }
    output.to_owned()
}

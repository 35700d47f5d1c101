//! Command lines as a user types them, with the built `qkey` on PATH.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use super::qkey::{Qkey, Run};

/// A command line for `sh`, in the folder and the environment of `qkey` and without a terminal.
pub fn command(qkey: &Qkey, line: &str) -> Command {
    let mut command = command_with_terminal(qkey, line);
    // Only setsid(2) runs between fork and exec.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
    command
}

/// As [`command`], in the session of whoever runs it.
pub fn command_with_terminal(qkey: &Qkey, line: &str) -> Command {
    let like = qkey.command_with_terminal([] as [&str; 0]);
    let variables = || {
        let variables = like.get_envs();
        variables.filter_map(|(name, value)| Some((name, value?)))
    };
    let folder = Path::new(env!("CARGO_BIN_EXE_qkey")).parent();
    let mut path = OsString::from(folder.expect("the folder of qkey"));
    if let Some((_, others)) = variables().find(|(name, _)| *name == "PATH") {
        path.push(":");
        path.push(others);
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(qkey.path(""))
        .env_clear()
        .envs(variables())
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command line to its end.
pub fn run(qkey: &Qkey, line: &str) -> Run {
    qkey.taken(&command(qkey, line).output().expect("sh runs"))
}

/// What a command line that must go well prints.
#[track_caller]
pub fn prints(qkey: &Qkey, line: &str) -> String {
    let run = run(qkey, line);
    assert_eq!(run.code, 0, "{line}: {run:?}");
    run.stdout
}

/// The text with the table of key sources cut short: there are more of them with every release.
pub fn without_table(text: &str) -> String {
    let mark = "a key source is one of: ";
    let mut parts = text.split(mark);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let end = part.find(" written ./PATH").unwrap_or_default();
        text + mark + "[TABLE]" + &part[end..]
    })
}

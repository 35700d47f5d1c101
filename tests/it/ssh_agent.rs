//! Keys in an ssh-agent: OpenSSH's own, and a scripted one that misbehaves.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, Qkey, Run, wait_until},
    session::{assert_cases, assert_session},
    shell::{self, prints, run},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{assert_data_eq, str};

const ALICE_FINGERPRINT: &str = "SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4";

/// Where the agent of a test listens, in the folder of its `qkey`.
const SOCKET: &str = "agent.sock";

/// OpenSSH's agent.
struct Agent(Child);

impl Agent {
    /// Starts one that holds nothing.
    fn start(qkey: &Qkey) -> Self {
        let mut command = Command::new("ssh-agent");
        // Whoever it would ask for a confirmation is a program that the test writes.
        command
            .env("SSH_ASKPASS", qkey.path("askpass"))
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("DISPLAY", ":0")
            .args(["-D", "-a"])
            .arg(qkey.path(SOCKET))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let agent = Self(command.spawn().expect("ssh-agent runs"));
        wait_until("the agent's socket", || {
            UnixStream::connect(qkey.path(SOCKET)).is_ok()
        });
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes `qkey` know the agent that listens, or will listen, in its folder.
fn knowing_the_agent(qkey: Qkey) -> Qkey {
    let socket = qkey.path(SOCKET);
    qkey.env("SSH_AUTH_SOCK", socket.to_str().expect("UTF-8"))
}

fn with_agent() -> (Qkey, Agent) {
    let qkey = knowing_the_agent(Qkey::new());
    let agent = Agent::start(&qkey);
    (qkey, agent)
}

/// Loads a private key that openssl or ssh-keygen has written, under a comment.
#[track_caller]
fn load(qkey: &Qkey, file: &str, comment: &str) {
    prints(
        qkey,
        &format!(
            "cp {file} loaded && ssh-keygen -q -p -N '' -f loaded >/dev/null
             ssh-keygen -q -c -C '{comment}' -f loaded >/dev/null
             ssh-add -q loaded && rm loaded"
        ),
    );
}

/// What `ssh-add` says that the agent holds, to replace what differs from run to run.
fn without_fingerprints(qkey: &Qkey, text: &str) -> String {
    let list = prints(qkey, "ssh-add -l");
    list.lines().fold(text.to_owned(), |text, line| {
        let fingerprint = line.split(' ').nth(1).expect("a fingerprint");
        if fingerprint == ALICE_FINGERPRINT {
            text
        } else {
            text.replace(fingerprint, "SHA256:[AS SSH-ADD SHOWS IT]")
        }
    })
}

#[test]
fn key_is_selected_by_fingerprint_or_comment() {
    let mock = Mock::new();
    mock.add_key("lock", "", ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let _agent = Agent::start(&qkey);
    load(&qkey, "alice.pem", r#"Alice'\''s 100% key, #1? "é""#);
    prints(&qkey, "ssh-add -q carol.pem");
    qkey.write("largest", [0; 250_000]);
    qkey.write("too-large", [0; 250_001]);
    qkey.configure(
        "[keys]\ngone.source = 'ssh-agent:gone'\ncarol.source = 'ssh-agent:carol.pem'\n",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey --format base64 ssh-agent:SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
$ qkey pubkey --format base64 ssh-agent:SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4=
$ qkey pubkey --format base64 ssh-agent:SHA256:qDNOdPfn%2FSvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
$ qkey pubkey --format base64 'ssh-agent:Alice'\''s 100%25 key, #1%3F "é"'
[ALICE]
$ qkey pubkey --format base64 ssh-agent:carol.pem
[CAROL]
$ qkey sign --key ssh-agent:carol.pem --file largest | wc -l
1
$ qkey sign --key ssh-agent:carol.pem --file too-large
--- exit 3
error: cannot sign with ssh-agent:carol.pem
  caused by: the challenge has 250001 bytes; an agent signs at most 250000
hint: sign it with a key file, which has no limit
$ qkey keys
ID  NAME  STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock  enabled  SHA256:[ALICE…]  -
--- exit 0
warning: skipped gone (ssh-agent:gone): key "gone": cannot open ssh-agent:gone: no key in the agent has the comment "gone"; it has: ecdsa-sha2-nistp256 SHA256:[ALICE] "Alice's 100% key, #1? \"é\"" ecdsa-sha2-nistp256 SHA256:[CAROL] "carol.pem"

"#]]
    );
}

#[test]
fn missing_and_unusable_keys_are_named() {
    let (qkey, _agent) = with_agent();
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent has no keys
hint: add the key with `ssh-add KEY`; if the agent is locked, unlock it with `ssh-add -X`

"#]]
    );
    prints(
        &qkey,
        "for type in ed25519 rsa; do
             ssh-keygen -q -t $type -N '' -C $type -f $type && ssh-add -q $type
         done
         ssh-keygen -q -t ecdsa -b 384 -N '' -C p384 -f p384 && ssh-add -q p384
         ssh-keygen -q -t ecdsa -b 256 -N '' -C 'a certified key' -f certified
         ssh-keygen -q -s ed25519 -I id certified.pub && ssh-add -q certified",
    );
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/keys/openssh-sk-ecdsa"
    );
    prints(
        &qkey,
        &format!("sed -n '/BEGIN/,$p' '{fixture}' > sk && chmod 600 sk && ssh-add -q sk"),
    );
    load(&qkey, "alice.pem", "alice");
    load(&qkey, "bob.pem", "twice");
    load(&qkey, "carol.pem", "twice");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey --format base64 ssh-agent:alice
[ALICE]
$ qkey pubkey 'ssh-agent:a certified key' >certified.pem
--- exit 0
$ qkey pubkey ssh-agent:nobody
--- exit 3
error: cannot open ssh-agent:nobody
  caused by: no key in the agent has the comment "nobody"; it has:
    ssh-ed25519 SHA256:[AS SSH-ADD SHOWS IT] "ed25519"
    ssh-rsa SHA256:[AS SSH-ADD SHOWS IT] "rsa"
    ecdsa-sha2-nistp384 SHA256:[AS SSH-ADD SHOWS IT] "p384"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "a certified key"
    ecdsa-sha2-nistp256-cert-v01@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "a certified key"
    sk-ecdsa-sha2-nistp256@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "qkey test key"
    ecdsa-sha2-nistp256 SHA256:[ALICE] "alice"
    ecdsa-sha2-nistp256 SHA256:[BOB] "twice"
    ecdsa-sha2-nistp256 SHA256:[CAROL] "twice"
hint: add the key with `ssh-add KEY`, or use one of those listed
$ qkey pubkey ssh-agent:SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA 2>&1 | sed -n 2p
  caused by: no key in the agent has the fingerprint SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; it has:
$ qkey pubkey ssh-agent:twice
--- exit 3
error: cannot open ssh-agent:twice
  caused by: several keys in the agent have the comment "twice":
    ecdsa-sha2-nistp256 SHA256:[BOB] "twice"
    ecdsa-sha2-nistp256 SHA256:[CAROL] "twice"
hint: name the key by its fingerprint: ssh-agent:SHA256:…
$ qkey pubkey ssh-agent:ed25519
--- exit 3
error: cannot open ssh-agent:ed25519
  caused by: cannot use ssh-ed25519 SHA256:[AS SSH-ADD SHOWS IT] "ed25519"
  caused by: the public key is Ed25519, not ECDSA P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`
$ qkey pubkey ssh-agent:p384
--- exit 3, hint as above
error: cannot open ssh-agent:p384
  caused by: cannot use ecdsa-sha2-nistp384 SHA256:[AS SSH-ADD SHOWS IT] "p384"
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
$ qkey pubkey 'ssh-agent:qkey test key'
--- exit 3, hint as above
error: cannot open ssh-agent:qkey test key
  caused by: cannot use sk-ecdsa-sha2-nistp256@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "qkey test key"
  caused by: the public key is on a FIDO security key (sk-ecdsa-sha2-nistp256@openssh.com), which signs more than the challenge

"#]],
        |text| without_fingerprints(&qkey, text)
    );

    // What `ssh-add -l` shows of every key names it here, too.
    let list = prints(&qkey, "ssh-add -l");
    assert_eq!(list.lines().count(), 9, "{list}");
    for line in list.lines() {
        let fingerprint = line.split(' ').nth(1).expect("a fingerprint");
        let run = qkey.run(["pubkey", &format!("ssh-agent:{fingerprint}")]);
        let usable = line.ends_with("(ECDSA)") && line.starts_with("256");
        let usable = usable || line.ends_with("(ECDSA-CERT)");
        assert_eq!(run.code == 0, usable, "{line}: {run:?}");
        assert!(usable || run.stderr.contains("cannot use "), "{run:?}");
    }
}

#[test]
fn malformed_sources_are_usage_errors() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey ssh-agent: 2>&1 | head -1
error: "ssh-agent:" is not a key source: nothing before the attributes
$ qkey pubkey ssh-agent:SHA256:qDNOdPfn
--- exit 2
error: "SHA256:qDNOdPfn" is not a key fingerprint (SHA256: and 43 Base64 digits)
hint: `ssh-add -l` shows the fingerprints of the keys in the agent
$ qkey pubkey 'ssh-agent:alice?confirm=no'
--- exit 2
error: "ssh-agent:alice?confirm=…" is not a key source: unknown attribute "confirm"
hint: ssh-agent takes no attributes; in a name, write `?` as %3F: ssh-agent:…%3F…
$ qkey generate ssh-agent:alice 2>&1 | head -1
error: qkey cannot create a key in "ssh-agent:alice"

"#]]
    );
}

#[test]
fn missing_agent_is_an_error() {
    let qkey = knowing_the_agent(Qkey::new());
    // Nobody listens any more on a socket that is left behind.
    drop(UnixListener::bind(qkey.path("stale.sock")).expect("a socket"));
    assert_session!(
        qkey,
        str![[r#"
$ unset SSH_AUTH_SOCK; qkey pubkey ssh-agent:alice
$ SSH_AUTH_SOCK= qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: SSH_AUTH_SOCK is not set
hint: start an agent (`eval "$(ssh-agent)"`), add the key (`ssh-add KEY`), and run this in the same shell; with sudo, use `sudo --preserve-env=SSH_AUTH_SOCK`
$ qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot connect to [DIR]/agent.sock
  caused by: No such file or directory (os error 2)
hint: the agent may have exited or belong to another user: check with `ssh-add -l`, or start a new one with `eval "$(ssh-agent)"`
$ SSH_AUTH_SOCK=stale.sock qkey pubkey ssh-agent:alice
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: cannot connect to stale.sock
  caused by: Connection refused (os error 111)
$ SSH_AUTH_SOCK=/$(printf %200s | tr ' ' x) qkey pubkey ssh-agent:alice 2>&1 | sed -n 3p
  caused by: File name too long (os error 36)

"#]]
    );
}

#[test]
fn locked_agent_and_declined_confirmation_are_explained() {
    let (qkey, _agent) = with_agent();
    let ask = "SSH_ASKPASS=./askpass SSH_ASKPASS_REQUIRE=force ssh-add -q";
    prints(&qkey, "ssh-add -q -c alice.pem");
    qkey.write_program("askpass", "#!/bin/sh\necho secret\n");
    prints(&qkey, &format!("{ask} -x"));
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key ssh-agent:alice.pem lock-2026
--- exit 3
error: cannot open ssh-agent:alice.pem
  caused by: the agent has no keys
hint: add the key with `ssh-add KEY`; if the agent is locked, unlock it with `ssh-add -X`

"#]]
    );
    prints(&qkey, &format!("{ask} -X"));
    qkey.write_program("askpass", "#!/bin/sh\nexit 0\n");
    prints(&qkey, "qkey sign --key ssh-agent:alice.pem lock-2026");
    qkey.write_program("askpass", "#!/bin/sh\nexit 1\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey ssh-agent:alice.pem --format base64
[ALICE]
$ qkey sign --key ssh-agent:alice.pem lock-2026
--- exit 3
error: cannot sign with ssh-agent:alice.pem
  caused by: the agent refused
hint: possible causes: the confirmation was declined (`ssh-add -c`), the agent is locked (unlock it with `ssh-add -X`), the key was removed, or the key is restricted to certain hosts (`ssh-add -h`)

"#]]
    );
}

#[test]
fn declined_confirmation_is_not_requested_again() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let _agent = Agent::start(&qkey);
    prints(&qkey, "ssh-add -q -c alice.pem");
    let asked = qkey.path("asked");
    // Yes to the first question, and no to the second.
    qkey.write_program(
        "askpass",
        &format!(
            "#!/bin/sh\necho >>{asked}; [ \"$(wc -l <{asked})\" -eq 1 ]\n",
            asked = asked.display()
        ),
    );
    let run = run(
        &qkey,
        "qkey unlock --id 1 --id 2 --id 3 --id 4 --key ssh-agent:alice.pem --jobs 4",
    );
    assert_eq!(run.code, 9, "{run:?}");
    assert!(run.stdout.contains("Unlocked 1, "), "{run:?}");
    let asked = fs::read_to_string(asked).expect("it was asked");
    assert_eq!(asked.lines().count(), 2);
}

#[test]
fn full_queue_ends_at_the_timeout() {
    let qkey = knowing_the_agent(Qkey::new());
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    );
    let socket = socket.expect("a socket");
    let address = rustix::net::SocketAddrUnix::new(qkey.path(SOCKET)).expect("a short path");
    rustix::net::bind(&socket, &address).expect("a bound socket");
    rustix::net::listen(&socket, 0).expect("a listening socket");
    let _first = UnixStream::connect(qkey.path(SOCKET)).expect("room for one");
    let run = qkey.run(["pubkey", "ssh-agent:alice", "--timeout=1"]);
    assert!(run.stderr.contains("did not respond within 1 s"), "{run:?}");
}

const SIGN_REQUEST: u8 = 13;
const FAILURE: u8 = 5;

/// A scripted agent, in the folder of `qkey`: for each request that it reads, the bytes to answer
/// with before the connection is closed, or nothing at all and the connection left open.
fn scripted(qkey: &Qkey, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) {
    lasting(qkey, 1, answer);
}

/// As [`scripted`], with the connection closed after so many answers; counts the connections.
fn lasting(
    qkey: &Qkey,
    answers: usize,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(qkey.path(SOCKET)).expect("a socket");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    thread::spawn(move || {
        let mut left_open = Vec::new();
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            counted.fetch_add(1, Ordering::SeqCst);
            for _ in 0..answers {
                let Some(request) = read_message(&mut connection) else {
                    break;
                };
                let Some(bytes) = answer(&request) else {
                    left_open.push(connection);
                    break;
                };
                // qkey may have left before all was written.
                drop(connection.write_all(&bytes));
            }
        }
    });
    connections
}

/// The next request on a connection, unless `qkey` has closed it.
fn read_message(connection: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    connection.read_exact(&mut length).ok()?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    connection.read_exact(&mut request).expect("a request");
    Some(request)
}

/// A `string` of RFC 4251, and the framing of a message.
fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// An answer that lists keys and comments, each already encoded.
fn list(identities: &[Vec<u8>]) -> Vec<u8> {
    [
        &[12][..],
        &(identities.len() as u32).to_be_bytes(),
        &identities.concat(),
    ]
    .concat()
}

/// Alice's key with the comment `alice`.
fn alice(blob: &[u8]) -> Vec<u8> {
    [frame(blob), frame(b"alice")].concat()
}

/// Alice's public key as SSH sends it.
fn alice_blob() -> Vec<u8> {
    let line = Qkey::new().run(["pubkey", "alice.pem", "--format", "openssh"]);
    let blob = line.stdout.split_whitespace().nth(1).expect("a blob");
    BASE64_STANDARD.decode(blob).expect("Base64")
}

/// An answer with a signature of a type.
fn signed(key_type: &str, r: &[u8], s: &[u8]) -> Vec<u8> {
    let numbers = [frame(r), frame(s)].concat();
    let signature = [frame(key_type.as_bytes()), frame(&numbers)].concat();
    [&[14][..], &frame(&signature)].concat()
}

/// The r and the s of Alice's signature, which is always the same for a challenge.
fn alice_signs(qkey: &Qkey, challenge: &str) -> (Vec<u8>, Vec<u8>) {
    let hex = format!(
        "qkey sign --key alice.pem '{challenge}' --format p1363 | od -An -tx1 -v | tr -d ' \\n'"
    );
    let bytes = prints(qkey, &hex);
    let digit = |i: usize| u8::from_str_radix(&bytes[i..i + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(digit).collect();
    let (r, s) = bytes.split_at(32);
    (r.to_vec(), s.to_vec())
}

const UNLOCK_FOUR: &str = "qkey unlock --id 1 --id 2 --id 3 --id 4 --key ssh-agent:alice";

/// Unlocks four snapshots with an agent that closes each connection after so many answers, and the
/// second signature of which breaks off after `second` bytes; returns the run, and how many
/// connections and signatures were asked for.
fn unlock_four(jobs: &str, answers: usize, second: Option<usize>) -> (Run, [usize; 2]) {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let signed_by_alice = [1, 2, 3, 4].map(|id| {
        let challenge = mock.unlock_challenge(id);
        let (r, s) = alice_signs(&qkey, &challenge);
        (challenge, r, s)
    });
    let blob = alice_blob();
    let signatures = Arc::new(AtomicUsize::new(0));
    let counted = signatures.clone();
    let connections = lasting(&qkey, answers, move |request| {
        if request[0] != SIGN_REQUEST {
            return Some(frame(&list(&[alice(&blob)])));
        }
        let contains = |text: &str| {
            request
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        let (_, r, s) = signed_by_alice
            .iter()
            .find(|(challenge, ..)| contains(challenge))
            .expect("the challenge of one of the four");
        let mut answer = frame(&signed("ecdsa-sha2-nistp256", &[&[0], &r[..]].concat(), s));
        if let (1, Some(length)) = (counted.fetch_add(1, Ordering::SeqCst), second) {
            answer.truncate(length);
        }
        Some(answer)
    });
    let run = run(&qkey, &format!("{UNLOCK_FOUR} {jobs}"));
    let counts = [connections, signatures].map(|count| count.load(Ordering::SeqCst));
    (run, counts)
}

#[test]
fn one_connection_serves_everything() {
    let (run, counts) = unlock_four("--jobs 4", usize::MAX, None);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock").
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock").
Unlocked snapshot 3 ("3_nightly_projects") with key 1 ("lock").
Unlocked snapshot 4 ("4_nightly") with key 1 ("lock").
Unlocked 4, already unlocked 0, failed 0.

"#]]
    );
    assert_eq!(counts, [1, 4]);
}

#[test]
fn closed_connection_is_reopened() {
    for (answers, connections) in [(1, 5), (2, 3), (4, 2)] {
        let (run, counts) = unlock_four("--jobs 4", answers, None);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(counts, [connections, 4]);
    }
}

#[test]
fn request_is_not_repeated_after_a_partial_reply() {
    // The second signature is the last answer on its connection.
    let (run, counts) = unlock_four("--jobs 1", 3, Some(20));
    assert_data_eq!(
        run.transcript(),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock").
Unlocked snapshot 3 ("3_nightly_projects") with key 1 ("lock").
Unlocked snapshot 4 ("4_nightly") with key 1 ("lock").
Unlocked 3, already unlocked 0, failed 1.
--- exit 9
error: snapshot 2: cannot sign with ssh-agent:alice
  caused by: the agent closed the connection before its reply was complete
hint: check that `ssh-add -l` works with this agent
error: 1 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(counts, [2, 4]);
}

#[test]
fn each_signature_has_its_own_timeout_and_connection() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let blob = alice_blob();
    let connections = lasting(&qkey, usize::MAX, move |request| {
        (request[0] != SIGN_REQUEST).then(|| frame(&list(&[alice(&blob)])))
    });
    let line = "qkey unlock --id 1 --id 2 --jobs 2 --key ssh-agent:alice --timeout 3";
    assert_data_eq!(
        run(&qkey, line).transcript(),
        str![[r#"
Unlocked 0, already unlocked 0, failed 2.
--- exit 3
error: snapshot 1: cannot sign with ssh-agent:alice
  caused by: the agent did not respond within 3 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it
error: snapshot 2: cannot sign with ssh-agent:alice
  caused by: the agent did not respond within 3 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[test]
fn refusal_stops_further_requests() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let blob = alice_blob();
    let signatures = Arc::new(AtomicUsize::new(0));
    let counted = signatures.clone();
    lasting(&qkey, usize::MAX, move |request| {
        if request[0] != SIGN_REQUEST {
            return Some(frame(&list(&[alice(&blob)])));
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Some(frame(&[FAILURE]))
    });
    let run = run(&qkey, &format!("{UNLOCK_FOUR} --jobs 4"));
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(
        run.stderr.matches("the agent refused").count(),
        4,
        "{run:?}"
    );
    assert_eq!(signatures.load(Ordering::SeqCst), 1);
}

#[test]
fn signal_ends_every_wait_on_the_connection() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let blob = alice_blob();
    let (asked, when_asked) = mpsc::channel();
    lasting(&qkey, usize::MAX, move |request| {
        let hangs = request[0] == SIGN_REQUEST;
        if hangs {
            asked.send(()).expect("the test listens");
        }
        (!hangs).then(|| frame(&list(&[alice(&blob)])))
    });
    let mut command = shell::command(&qkey, &format!("exec {UNLOCK_FOUR} --jobs 4"));
    let child = command.spawn().expect("qkey runs");
    when_asked.recv().expect("a request to sign");
    kill_process(Pid::from_child(&child), Signal::INT).expect("qkey takes signals");
    let begun = Instant::now();
    let output = child.wait_with_output().expect("qkey ends");
    let run = qkey.taken(&output);
    assert_eq!(run.code, 130, "{run:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{run:?}");
    let told = "interrupted before it could sign with ssh-agent:alice";
    assert!(run.stderr.contains(told), "{run:?}");
}

#[test]
fn openssh_agent_signs_in_parallel_over_one_connection() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let _agent = Agent::start(&qkey);
    load(&qkey, "alice.pem", "alice");
    let run = run(&qkey, &format!("{UNLOCK_FOUR} --jobs 4 -vv"));
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stderr.contains("making a new one"), "{run:?}");
    assert!((1..=4).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn restarted_agent_is_found_again() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let restart = "case \"$*\" in *snapshot_unlock_snapshot*) ./restart ;; esac";
    let qkey = knowing_the_agent(Qkey::with_mock(&mock)).between(&mock, restart);
    let agent = Agent::start(&qkey);
    load(&qkey, "alice.pem", "alice");
    let restart = format!(
        "#!/bin/sh
         test -e restarted && exit
         kill -9 {}; rm -f agent.sock
         eval \"$(ssh-agent -a agent.sock)\" >restarted
         echo \"$SSH_AGENT_PID\" >restarted
         cp alice.pem alice; ssh-keygen -q -c -C alice -f alice >/dev/null 2>&1
         ssh-add -q alice\n",
        agent.0.id()
    );
    qkey.write_program("restart", &restart);
    let run = run(&qkey, &format!("{UNLOCK_FOUR} --jobs 1 -vv"));
    let pid = fs::read_to_string(qkey.path("restarted")).expect("it was restarted");
    let pid = Pid::from_raw(pid.trim().parse().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::TERM).expect("the agent runs");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr.matches("making a new one").count(), 1, "{run:?}");
    assert!((1..=4).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn malformed_key_lists_are_shown() {
    let blob = alice_blob();
    let off_the_curve = {
        let mut blob = blob.clone();
        *blob.last_mut().expect("a point") ^= 1;
        blob
    };
    assert_cases!(
        str![[r#"
==== refuses
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent refused
hint: possible causes: the confirmation was declined (`ssh-add -c`), the agent is locked (unlock it with `ssh-add -X`), the key was removed, or the key is restricted to certain hosts (`ssh-add -h`)
==== closes at once
==== closes in the length
==== closes in the answer
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent closed the connection before its reply was complete
hint: check that `ssh-add -l` works with this agent
==== announces 4 GiB
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: the agent announced a reply of 4294967295 bytes; the limit is 262144
==== answers nothing
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: (nothing)
==== answers something else
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: 06616c6c2069732077656c6c2c20616e64207468697320676f6573206f6e2061…
==== lists more than it shows
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: 0c000000090000000101
==== lists a point off the curve
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot use ecdsa-sha2-nistp256 SHA256:NCzRFw+1wAetEks6h9rOgNewp0VNN3NCvCTp5icD6J0 "alice"
  caused by: the point of the public key is not on P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`
==== lists a key of unknown type
--- exit 3, hint as above
error: cannot open ssh-agent:alice
  caused by: cannot use a key of unknown type SHA256:lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c "alice"
  caused by: the OpenSSH public key is truncated or damaged
==== hangs in the answer
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent did not respond within 1 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it

"#]],
        |case| {
            let answer = match case {
                "refuses" => frame(&[FAILURE]),
                "closes at once" => vec![],
                "closes in the length" => vec![0, 0],
                "closes in the answer" => frame(&list(&[alice(&blob)]))[..40].to_vec(),
                "announces 4 GiB" => vec![0xff; 64],
                "answers nothing" => frame(&[]),
                "answers something else" => frame(b"\x06all is well, and this goes on and on"),
                "lists more than it shows" => frame(&[12, 0, 0, 0, 9, 0, 0, 0, 1, 1]),
                "lists a point off the curve" => frame(&list(&[alice(&off_the_curve)])),
                _ => frame(&list(&[alice(&[0, 0])])),
            };
            let qkey = knowing_the_agent(Qkey::new());
            let hangs = case.starts_with("hangs");
            scripted(&qkey, move |_| (!hangs).then(|| answer.clone()));
            let timeout = if hangs { "--timeout=1" } else { "--timeout=60" };
            qkey.run(["pubkey", "ssh-agent:alice", timeout])
                .transcript()
        }
    );
}

/// Other agents pad the numbers of a signature in ways of their own.
#[test]
fn signatures_are_read_with_any_padding() {
    // The signature is always the same for a challenge: this one's r has its high bit set.
    let (r, s) = alice_signs(&Qkey::new(), "lock-2026");
    assert!(r[0] >= 0x80 && s[0] < 0x80);
    let padded = |number: &[u8], zeros: usize| [vec![0; zeros], number.to_vec()].concat();
    let p256 = |r: &[u8], s: &[u8]| signed("ecdsa-sha2-nistp256", r, s);
    let blob = alice_blob();
    assert_cases!(
        str![[r#"
==== as the RFC has it
==== no zero before a high bit
==== 33 bytes each
==== many zeros
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
==== r and s swapped
--- exit 3
error: ssh-agent:alice returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256
==== r is zero
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0000001365636473612d736861322d6e69737470323536000000280000000000…
  caused by: r or s is out of range for P-256
hint: check that `ssh-add -l` works with this agent
==== r is too long
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0000001365636473612d736861322d6e697374703235360000004900000021ef…
  caused by: r or s is out of range for P-256
==== another type
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0000000c7273612d736861322d3235360000004800000020ef45b4497e45d943…
  caused by: an SSH signature of the type rsa-sha2-256, not ecdsa-sha2-nistp256
==== DER
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 3006020101020101
  caused by: not an SSH signature
==== something left over
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0e000000630000001365636473612d736861322d6e6973747032353600000048…
==== no signature
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0e
==== another answer
--- exit 3, hint as above
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 06

"#]],
        |case| {
            let answer = match case {
                "as the RFC has it" => p256(&padded(&r, 1), &s),
                "no zero before a high bit" => p256(&r, &s),
                "33 bytes each" => p256(&padded(&r, 1), &padded(&s, 1)),
                "many zeros" => p256(&padded(&r, 9), &padded(&s, 4)),
                "r and s swapped" => p256(&s, &r),
                "r is zero" => p256(&[], &s),
                "r is too long" => p256(&[&r[..], &[1]].concat(), &s),
                "another type" => signed("rsa-sha2-256", &r, &s),
                "DER" => [&[14][..], &frame(&[0x30, 6, 2, 1, 1, 2, 1, 1])].concat(),
                "something left over" => [p256(&r, &s), vec![0; 4]].concat(),
                "no signature" => vec![14],
                _ => vec![6],
            };
            let qkey = knowing_the_agent(Qkey::new());
            let blob = blob.clone();
            scripted(&qkey, move |request| {
                Some(match request[0] {
                    SIGN_REQUEST => frame(&answer),
                    _ => frame(&list(&[alice(&blob)])),
                })
            });
            run(&qkey, "qkey sign --key ssh-agent:alice lock-2026").transcript()
        }
    );
}

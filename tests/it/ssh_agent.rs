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
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run, wait_until},
    shell::{self, prints, run, transcript},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{IntoData, assert_data_eq, str};

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

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the agent takes signals");
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
        match fingerprint == ALICE_FINGERPRINT {
            true => text,
            false => text.replace(fingerprint, "SHA256:[AS SSH-ADD SHOWS IT]"),
        }
    })
}

#[test]
fn a_key_is_named_by_its_fingerprint_or_its_comment() {
    let (qkey, _agent) = with_agent();
    load(
        &qkey,
        "alice.pem",
        "Alice's 100% key, #1? \"é\""
            .replace('\'', r"'\''")
            .as_str(),
    );
    load(&qkey, "bob.pem", "bob");
    prints(&qkey, "ssh-add -q carol.pem");
    let public_key = |source: &str| {
        let run = qkey.run(["pubkey", source, "--format", "base64"]);
        assert_eq!(run.code, 0, "{run:?}");
        run.stdout.trim().to_owned()
    };
    for source in [
        &format!("ssh-agent:{ALICE_FINGERPRINT}"),
        &format!("ssh-agent:{ALICE_FINGERPRINT}="),
        &format!("ssh-agent:{}", ALICE_FINGERPRINT.replace('/', "%2F")),
        "ssh-agent:Alice's 100%25 key, #1%3F \"é\"",
    ] {
        assert_eq!(public_key(source), ALICE_PUBLIC, "{source}");
    }
    assert_eq!(public_key("ssh-agent:bob"), BOB_PUBLIC);
    assert_eq!(
        public_key("ssh-agent:carol.pem"),
        crate::support::qkey::CAROL_PUBLIC
    );
}

#[test]
fn every_challenge_is_signed_to_the_byte_and_openssl_verifies_it() {
    let (qkey, _agent) = with_agent();
    load(&qkey, "alice.pem", "alice");
    prints(&qkey, "openssl pkey -in alice.pem -pubout -out public.pem");
    for challenge in [
        &b""[..],
        b"lock-2026",
        b"lock-2026\n",
        b"it's \"quoted\" \\n $(x)",
        "Schlüssel 🔑".as_bytes(),
        b"\xff\0\r\n",
        &b"0123456789".repeat(500),
        &b"0123456789".repeat(2_000),
        &b"0123456789".repeat(25_000),
    ] {
        qkey.write("challenge", challenge);
        prints(
            &qkey,
            "qkey sign --key ssh-agent:alice --file challenge --format der > signature
             openssl dgst -sha256 -verify public.pem -signature signature challenge
             qkey sign --key ssh-agent:alice --file challenge > signature
             qkey verify --public-key public.pem --signature signature --file challenge",
        );
    }
    qkey.write("challenge", [0; 250_001]);
    assert_data_eq!(
        transcript(&qkey, ["qkey sign --key ssh-agent:alice --file challenge"]),
        str![[r#"
$ qkey sign --key ssh-agent:alice --file challenge
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: the challenge has 250001 bytes; an agent signs at most 250000
hint: sign it with a key file, which has no limit


"#]]
    );
}

#[test]
fn a_key_in_the_agent_takes_the_place_of_a_key_file_and_unlocks() {
    let mock = Mock::new();
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let _agent = Agent::start(&qkey);
    load(&qkey, "alice.pem", "alice");
    load(&qkey, "bob.pem", "bob");
    mock.add_snapshot(7, "7_nightly", Some("1"));
    mock.add_snapshot(8, "8_nightly", Some("1"));
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey add --name lock --key carol.pem",
                "qkey replace --key-id lock --old-key carol.pem --new-key ssh-agent:alice",
                "qkey unlock --id 7 --key ssh-agent:alice",
                "qkey replace --key-id lock --old-key ssh-agent:alice --new-key ssh-agent:bob",
                "qkey unlock --id 8 --key ssh-agent:alice",
                "qkey replace --key-id lock --old-key ssh-agent:bob --new-key alice.pem",
            ]
        ),
        str![[r#"
$ qkey add --name lock --key carol.pem
Stored key 1 ("lock") in the key store.
  SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ

$ qkey replace --key-id lock --old-key carol.pem --new-key ssh-agent:alice
Replaced key 1 ("lock").
  was SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ
  now SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

$ qkey unlock --id 7 --key ssh-agent:alice
Unlocked snapshot 7 ("7_nightly") with key 1 ("lock").

$ qkey replace --key-id lock --old-key ssh-agent:alice --new-key ssh-agent:bob
Replaced key 1 ("lock").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s

$ qkey unlock --id 8 --key ssh-agent:alice
--- exit 4
error: ssh-agent:alice (SHA256:qDNOdPfn/SvG) does not match key 1 ("lock")
hint: nothing was sent; you need the private key for SHA256:Bigzvx05JkuL

$ qkey replace --key-id lock --old-key ssh-agent:bob --new-key alice.pem
Replaced key 1 ("lock").
  was SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
  now SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4


"#]]
    );
    qkey.configure(
        "[keys.gone]\nsource = 'ssh-agent:gone'\n[keys.bob]\nsource = 'ssh-agent:bob'\n\
         [keys.alice]\nsource = 'ssh-agent:alice'\n",
    );
    assert_data_eq!(
        transcript(&qkey, ["qkey unlock --id 8", "qkey keys"]),
        str![[r#"
$ qkey unlock --id 8
Unlocked snapshot 8 ("8_nightly") with key 1 ("lock").

$ qkey keys
ID  NAME  STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock  enabled  SHA256:qDNOdPfn/SvG  alice
--- exit 0
warning: skipped gone (ssh-agent:gone): key "gone": cannot open ssh-agent:gone: no key in the agent has the comment "gone"; it has: ecdsa-sha2-nistp256 SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4 "alice" ecdsa-sha2-nistp256 SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s "bob"


"#]]
    );
}

#[test]
fn a_key_of_no_use_or_not_there_is_told_from_the_others() {
    let (qkey, _agent) = with_agent();
    let lines = ["qkey pubkey ssh-agent:alice"];
    assert_data_eq!(
        transcript(&qkey, lines),
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
    let said = transcript(
        &qkey,
        [
            "qkey pubkey ssh-agent:alice",
            "qkey pubkey 'ssh-agent:a certified key' >certified.pem",
            "qkey pubkey ssh-agent:nobody",
            "qkey pubkey ssh-agent:SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "qkey pubkey ssh-agent:twice",
            "qkey pubkey ssh-agent:ed25519",
            "qkey pubkey ssh-agent:rsa",
            "qkey pubkey ssh-agent:p384",
            "qkey pubkey 'ssh-agent:qkey test key'",
            "qkey pubkey ssh-agent:twice --output json",
        ],
    );
    assert_data_eq!(without_fingerprints(&qkey, &said), str![[r#"
$ qkey pubkey ssh-agent:alice
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ
qTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
-----END PUBLIC KEY-----

$ qkey pubkey 'ssh-agent:a certified key' >certified.pem

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
    ecdsa-sha2-nistp256 SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4 "alice"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
hint: add the key with `ssh-add KEY`, or use one of those listed

$ qkey pubkey ssh-agent:SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
--- exit 3
error: cannot open ssh-agent:SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
  caused by: no key in the agent has the fingerprint SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; it has:
    ssh-ed25519 SHA256:[AS SSH-ADD SHOWS IT] "ed25519"
    ssh-rsa SHA256:[AS SSH-ADD SHOWS IT] "rsa"
    ecdsa-sha2-nistp384 SHA256:[AS SSH-ADD SHOWS IT] "p384"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "a certified key"
    ecdsa-sha2-nistp256-cert-v01@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "a certified key"
    sk-ecdsa-sha2-nistp256@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "qkey test key"
    ecdsa-sha2-nistp256 SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4 "alice"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
hint: add the key with `ssh-add KEY`, or use one of those listed

$ qkey pubkey ssh-agent:twice
--- exit 3
error: cannot open ssh-agent:twice
  caused by: several keys in the agent have the comment "twice":
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
    ecdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] "twice"
hint: name the key by its fingerprint: ssh-agent:SHA256:…

$ qkey pubkey ssh-agent:ed25519
--- exit 3
error: cannot open ssh-agent:ed25519
  caused by: cannot use ssh-ed25519 SHA256:[AS SSH-ADD SHOWS IT] "ed25519"
  caused by: the public key is Ed25519, not ECDSA P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`

$ qkey pubkey ssh-agent:rsa
--- exit 3
error: cannot open ssh-agent:rsa
  caused by: cannot use ssh-rsa SHA256:[AS SSH-ADD SHOWS IT] "rsa"
  caused by: the public key is RSA, not ECDSA P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`

$ qkey pubkey ssh-agent:p384
--- exit 3
error: cannot open ssh-agent:p384
  caused by: cannot use ecdsa-sha2-nistp384 SHA256:[AS SSH-ADD SHOWS IT] "p384"
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`

$ qkey pubkey 'ssh-agent:qkey test key'
--- exit 3
error: cannot open ssh-agent:qkey test key
  caused by: cannot use sk-ecdsa-sha2-nistp256@openssh.com SHA256:[AS SSH-ADD SHOWS IT] "qkey test key"
  caused by: the public key is on a FIDO security key (sk-ecdsa-sha2-nistp256@openssh.com), which signs more than the challenge
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`

$ qkey pubkey ssh-agent:twice --output json
--- exit 3
{"error":{"kind":"key","message":"cannot open ssh-agent:twice","causes":["several keys in the agent have the comment \"twice\":\necdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] \"twice\"\necdsa-sha2-nistp256 SHA256:[AS SSH-ADD SHOWS IT] \"twice\""],"hint":"name the key by its fingerprint: ssh-agent:SHA256:…","exit_code":3}}


"#]].raw());

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
fn a_source_that_names_no_key_is_a_usage_error() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey ssh-agent: 2>&1 | head -1",
                "qkey pubkey ssh-agent:SHA256:qDNOdPfn",
                "qkey pubkey 'ssh-agent:alice?confirm=no'",
                "qkey generate ssh-agent:alice 2>&1 | head -1",
            ]
        ),
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
fn an_agent_that_is_not_there_is_an_error_at_once() {
    let qkey = knowing_the_agent(Qkey::new());
    // Nobody listens any more on a socket that is left behind.
    drop(UnixListener::bind(qkey.path("stale.sock")).expect("a socket"));
    let long = format!(
        "SSH_AUTH_SOCK=/{} qkey pubkey ssh-agent:alice",
        "x".repeat(200)
    );
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "unset SSH_AUTH_SOCK; qkey pubkey ssh-agent:alice",
                "SSH_AUTH_SOCK= qkey pubkey ssh-agent:alice",
                "qkey pubkey ssh-agent:alice",
                "SSH_AUTH_SOCK=stale.sock qkey pubkey ssh-agent:alice",
                "SSH_AUTH_SOCK=alice.pem qkey pubkey ssh-agent:alice",
                &long,
            ]
        ),
        str![[r#"
$ unset SSH_AUTH_SOCK; qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: SSH_AUTH_SOCK is not set
hint: start an agent (`eval "$(ssh-agent)"`), add the key (`ssh-add KEY`), and run this in the same shell; with sudo, use `sudo --preserve-env=SSH_AUTH_SOCK`

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
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot connect to stale.sock
  caused by: Connection refused (os error 111)
hint: the agent may have exited or belong to another user: check with `ssh-add -l`, or start a new one with `eval "$(ssh-agent)"`

$ SSH_AUTH_SOCK=alice.pem qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot connect to alice.pem
  caused by: Connection refused (os error 111)
hint: the agent may have exited or belong to another user: check with `ssh-add -l`, or start a new one with `eval "$(ssh-agent)"`

$ SSH_AUTH_SOCK=/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx qkey pubkey ssh-agent:alice
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot connect to /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
  caused by: File name too long (os error 36)
hint: the agent may have exited or belong to another user: check with `ssh-add -l`, or start a new one with `eval "$(ssh-agent)"`


"#]]
    );
}

#[test]
fn an_agent_that_is_locked_shows_no_keys() {
    let (qkey, _agent) = with_agent();
    load(&qkey, "alice.pem", "alice");
    qkey.write_program("askpass", "#!/bin/sh\necho secret\n");
    let ask = "SSH_ASKPASS=./askpass SSH_ASKPASS_REQUIRE=force ssh-add -q";
    prints(&qkey, &format!("{ask} -x"));
    assert_data_eq!(
        transcript(&qkey, ["qkey sign --key ssh-agent:alice lock-2026"]),
        str![[r#"
$ qkey sign --key ssh-agent:alice lock-2026
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent has no keys
hint: add the key with `ssh-add KEY`; if the agent is locked, unlock it with `ssh-add -X`


"#]]
    );
    prints(
        &qkey,
        &format!("{ask} -X && qkey sign --key ssh-agent:alice lock-2026"),
    );
}

#[test]
fn a_key_that_wants_a_confirmation_signs_only_with_it() {
    let (qkey, _agent) = with_agent();
    qkey.write_program("askpass", "#!/bin/sh\nexit 1\n");
    prints(&qkey, "ssh-add -q -c alice.pem");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey ssh-agent:alice.pem",
                "qkey sign --key ssh-agent:alice.pem lock-2026",
            ]
        ),
        str![[r#"
$ qkey pubkey ssh-agent:alice.pem
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ
qTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
-----END PUBLIC KEY-----

$ qkey sign --key ssh-agent:alice.pem lock-2026
--- exit 3
error: cannot sign with ssh-agent:alice.pem
  caused by: the agent refused
hint: possible causes: the confirmation was declined (`ssh-add -c`), the agent is locked (unlock it with `ssh-add -X`), the key was removed, or the key is restricted to certain hosts (`ssh-add -h`)


"#]]
    );
    qkey.write_program("askpass", "#!/bin/sh\nexit 0\n");
    prints(&qkey, "qkey sign --key ssh-agent:alice.pem lock-2026");
}

#[test]
fn a_denied_confirmation_is_not_asked_for_again() {
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
fn an_agent_that_hangs_is_left_at_the_deadline() {
    let (qkey, agent) = with_agent();
    load(&qkey, "alice.pem", "alice");
    agent.signal(Signal::STOP);
    let line = "qkey sign --key ssh-agent:alice lock-2026";
    assert_data_eq!(
        transcript(&qkey, [&format!("{line} --timeout 1")[..]]),
        str![[r#"
$ qkey sign --key ssh-agent:alice lock-2026 --timeout 1
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent did not respond within 1 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it


"#]]
    );
    agent.signal(Signal::CONT);
    prints(&qkey, line);
}

#[test]
fn an_agent_whose_queue_is_full_is_left_at_the_deadline() {
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
    assert_data_eq!(
        transcript(&qkey, ["qkey pubkey ssh-agent:alice --timeout 1"]),
        str![[r#"
$ qkey pubkey ssh-agent:alice --timeout 1
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent did not respond within 1 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it


"#]]
    );
}

#[test]
fn a_signal_ends_the_wait_for_an_agent_at_once() {
    let qkey = knowing_the_agent(Qkey::new());
    let (asked, when_asked) = mpsc::channel();
    scripted(&qkey, move |request| {
        let hangs = request[0] == SIGN_REQUEST;
        if hangs {
            asked.send(()).expect("the test listens");
        }
        (!hangs).then(|| frame(&list(&[alice(&alice_blob())])))
    });
    let child = qkey
        .command(["sign", "--key", "ssh-agent:alice", "lock-2026"])
        .spawn()
        .expect("qkey runs");
    when_asked.recv().expect("a request to sign");
    kill_process(Pid::from_child(&child), Signal::INT).expect("qkey takes signals");
    let output = child.wait_with_output().expect("qkey ends");
    assert_data_eq!(
        qkey.taken(&output).transcript(),
        str![[r#"
--- exit 130
error: interrupted before it could sign with ssh-agent:alice

"#]]
    );
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
                match answer(&request) {
                    // It may have been left before all was written.
                    Some(bytes) => drop(connection.write_all(&bytes)),
                    None => {
                        left_open.push(connection);
                        break;
                    }
                }
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
fn one_connection_serves_the_list_and_all_signatures() {
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
fn an_agent_that_closes_idle_connections_is_asked_on_a_new_one() {
    for (answers, connections) in [(1, 5), (2, 3), (4, 2)] {
        let (run, counts) = unlock_four("--jobs 4", answers, None);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(counts, [connections, 4]);
    }
}

#[test]
fn an_agent_that_closes_within_an_answer_is_not_asked_again() {
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
fn each_signature_of_an_agent_that_hangs_has_its_own_deadline_and_connection() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    let qkey = knowing_the_agent(Qkey::with_mock(&mock));
    let blob = alice_blob();
    let connections = lasting(&qkey, usize::MAX, move |request| {
        (request[0] != SIGN_REQUEST).then(|| frame(&list(&[alice(&blob)])))
    });
    let line = "qkey unlock --id 1 --id 2 --jobs 2 --key ssh-agent:alice --timeout 4";
    assert_data_eq!(
        run(&qkey, line).transcript(),
        str![[r#"
Unlocked 0, already unlocked 0, failed 2.
--- exit 3
error: snapshot 1: cannot sign with ssh-agent:alice
  caused by: the agent did not respond within 4 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it
error: snapshot 2: cannot sign with ssh-agent:alice
  caused by: the agent did not respond within 4 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[test]
fn an_agent_that_refuses_is_asked_for_one_signature_per_run() {
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
fn a_signal_ends_the_wait_of_all_who_share_the_connection() {
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
fn the_agent_of_openssh_signs_for_many_at_a_time_over_one_connection() {
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
fn an_agent_that_was_restarted_meanwhile_is_found_again() {
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
    let pid = std::fs::read_to_string(qkey.path("restarted")).expect("it was restarted");
    let pid = Pid::from_raw(pid.trim().parse().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::TERM).expect("the agent runs");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stderr.matches("making a new one").count(), 1, "{run:?}");
    assert!((1..=4).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn an_agent_that_gives_no_list_is_named() {
    let blob = alice_blob();
    let off_the_curve = {
        let mut blob = blob.clone();
        *blob.last_mut().expect("a point") ^= 1;
        blob
    };
    let cases: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("refuses", Some(frame(&[5]))),
        ("closes at once", Some(vec![])),
        ("closes in the length", Some(vec![0, 0])),
        (
            "closes in the answer",
            Some(frame(&list(&[alice(&blob)]))[..40].to_vec()),
        ),
        ("announces 4 GiB", Some(vec![0xff; 64])),
        ("answers nothing", Some(frame(&[]))),
        (
            "answers something else",
            Some(frame(b"\x06all is well, and this goes on and on")),
        ),
        (
            "lists more than it shows",
            Some(frame(&[12, 0, 0, 0, 9, 0, 0, 0, 1, 1])),
        ),
        (
            "lists a point off the curve",
            Some(frame(&list(&[alice(&off_the_curve)]))),
        ),
        (
            "lists a key of unknown type",
            Some(frame(&list(&[alice(&[0, 0])]))),
        ),
        ("hangs in the answer", None),
    ];
    let said: String = cases
        .into_iter()
        .map(|(name, answer)| {
            let qkey = knowing_the_agent(Qkey::new());
            let timeout = if answer.is_none() { "1" } else { "60" };
            scripted(&qkey, move |_| answer.clone());
            let run = qkey.run(["pubkey", "ssh-agent:alice", "--timeout", timeout]);
            format!("==== {name}\n{}", run.transcript())
        })
        .collect();
    assert_data_eq!(said, str![[r#"
==== refuses
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent refused
hint: possible causes: the confirmation was declined (`ssh-add -c`), the agent is locked (unlock it with `ssh-add -X`), the key was removed, or the key is restricted to certain hosts (`ssh-add -h`)
==== closes at once
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent closed the connection before its reply was complete
hint: check that `ssh-add -l` works with this agent
==== closes in the length
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent closed the connection before its reply was complete
hint: check that `ssh-add -l` works with this agent
==== closes in the answer
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent closed the connection before its reply was complete
hint: check that `ssh-add -l` works with this agent
==== announces 4 GiB
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent announced a reply of 4294967295 bytes; the limit is 262144
hint: check that `ssh-add -l` works with this agent
==== answers nothing
--- exit 3
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: (nothing)
hint: check that `ssh-add -l` works with this agent
==== answers something else
--- exit 3
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: 06616c6c2069732077656c6c2c20616e64207468697320676f6573206f6e2061…
hint: check that `ssh-add -l` works with this agent
==== lists more than it shows
--- exit 3
error: cannot open ssh-agent:alice
  caused by: unexpected reply from the agent instead of a list of keys: 0c000000090000000101
hint: check that `ssh-add -l` works with this agent
==== lists a point off the curve
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot use ecdsa-sha2-nistp256 SHA256:NCzRFw+1wAetEks6h9rOgNewp0VNN3NCvCTp5icD6J0 "alice"
  caused by: the point of the public key is not on P-256
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`
==== lists a key of unknown type
--- exit 3
error: cannot open ssh-agent:alice
  caused by: cannot use a key of unknown type SHA256:lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c "alice"
  caused by: the OpenSSH public key is truncated or damaged
hint: use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`
==== hangs in the answer
--- exit 3
error: cannot open ssh-agent:alice
  caused by: the agent did not respond within 1 s
hint: the agent may be waiting for confirmation or a touch; allow more time with --timeout SECONDS, or restart it

"#]].raw());
}

#[test]
fn numbers_that_others_write_in_their_own_way_are_read_and_no_others() {
    let qkey = knowing_the_agent(Qkey::new());
    // The signature is always the same for a challenge: this one's r has its high bit set.
    let (r, s) = alice_signs(&qkey, "lock-2026");
    assert!(r[0] >= 0x80 && s[0] < 0x80);
    let padded = |number: &[u8], zeros: usize| [vec![0; zeros], number.to_vec()].concat();
    let p256 = "ecdsa-sha2-nistp256";
    let mut twice = signed(p256, &r, &s);
    twice.extend_from_slice(&[0, 0, 0, 0]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("as the RFC has it", signed(p256, &padded(&r, 1), &s)),
        ("no zero before a high bit", signed(p256, &r, &s)),
        (
            "33 bytes each",
            signed(p256, &padded(&r, 1), &padded(&s, 1)),
        ),
        ("many zeros", signed(p256, &padded(&r, 9), &padded(&s, 4))),
        ("r and s swapped", signed(p256, &s, &r)),
        ("r is zero", signed(p256, &[], &s)),
        (
            "r is too long",
            signed(p256, &[r.as_slice(), &[1]].concat(), &s),
        ),
        ("another type", signed("rsa-sha2-256", &r, &s)),
        (
            "DER",
            [&[14][..], &frame(&[0x30, 6, 2, 1, 1, 2, 1, 1])].concat(),
        ),
        ("something left over", twice),
        ("no signature", vec![14]),
        ("another answer", vec![6]),
    ];
    let blob = alice_blob();
    let (next, answers) = mpsc::channel::<Vec<u8>>();
    scripted(&qkey, move |request| {
        Some(frame(&match request[0] {
            SIGN_REQUEST => answers.recv().expect("an answer"),
            _ => list(&[alice(&blob)]),
        }))
    });
    let said: String = cases
        .into_iter()
        .map(|(name, answer)| {
            next.send(answer).expect("the agent runs");
            let run = run(&qkey, "qkey sign --key ssh-agent:alice lock-2026");
            format!("==== {name}\n{}", run.transcript())
        })
        .collect();
    assert_data_eq!(said, str![[r#"
==== as the RFC has it
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
==== no zero before a high bit
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
==== 33 bytes each
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
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
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0000001365636473612d736861322d6e697374703235360000004900000021ef…
  caused by: r or s is out of range for P-256
hint: check that `ssh-add -l` works with this agent
==== another type
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0000000c7273612d736861322d3235360000004800000020ef45b4497e45d943…
  caused by: an SSH signature of the type rsa-sha2-256, not ecdsa-sha2-nistp256
hint: check that `ssh-add -l` works with this agent
==== DER
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 3006020101020101
  caused by: not an SSH signature
hint: check that `ssh-add -l` works with this agent
==== something left over
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0e000000630000001365636473612d736861322d6e6973747032353600000048…
hint: check that `ssh-add -l` works with this agent
==== no signature
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 0e
hint: check that `ssh-add -l` works with this agent
==== another answer
--- exit 3
error: cannot sign with ssh-agent:alice
  caused by: unexpected reply from the agent instead of a signature: 06
hint: check that `ssh-add -l` works with this agent

"#]].raw());
}

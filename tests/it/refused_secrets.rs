//! A secret or login that was refused is used once per run: tokens and TPMs lock after a few wrong
//! tries. Counted at the tool or the token itself.

use std::fs;

use crate::support::{
    key_source::with_program,
    mock::Mock,
    qkey::{ALICE_PUBLIC, Qkey, Run},
    shell::prints,
    swtpm::Swtpm,
    terminal::Terminal,
};
use snapbox::{IntoData, assert_data_eq, str};

/// A program that shows Alice's public key and never signs. It writes a line to `signs` for each
/// signature that it is asked for.
struct Tool {
    program: &'static str,
    source: &'static str,
    /// A pattern of `case` that matches its arguments or its stdin when it is to sign.
    sign: &'static str,
    /// Prints the public key, which is in `public.pem` and, as Base64 of its DER, in `$public`.
    shows: &'static str,
    /// Refuses to sign.
    refuses: &'static str,
}

const AWS: Tool = Tool {
    program: "aws",
    source: "awskms:///alias/lock?region=r",
    sign: "*'kms sign '*",
    shows: r#"echo "{\"PublicKey\":\"$public\",\"KeyId\":\"k\"}""#,
    refuses: "echo 'An error occurred (ExpiredTokenException) when calling the Sign operation: \
              The security token included in the request is expired' >&2; exit 254",
};
const GCLOUD: Tool = Tool {
    program: "gcloud",
    source: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
    sign: "*asymmetric-sign*",
    shows: "cat public.pem",
    refuses: "echo 'ERROR: (gcloud.kms.asymmetric-sign) UNAUTHENTICATED: expired' >&2; exit 1",
};
const AZ: Tool = Tool {
    program: "az",
    source: "azurekms://vault/lock/0123456789abcdef0123456789abcdef",
    sign: "*'key sign '*",
    shows: r#"digits() { printf %s "$public" | base64 -d | tail -c 64 | "$@" | base64 -w0; }
        echo "{\"key\":{\"kid\":\"https://vault.vault.azure.net/keys/lock/0123456789abcdef0123456789abcdef\",\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"$(digits head -c 32)\",\"y\":\"$(digits tail -c 32)\"}}""#,
    refuses: "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1",
};
const BAO: Tool = Tool {
    program: "bao",
    source: "hashivault://lock?tool=bao",
    sign: "*transit/sign/*",
    shows: r#"pem=$(awk '{printf "%s\\n", $0}' public.pem)
        printf '%s\n' "{\"data\":{\"type\":\"ecdsa-p256\",\"latest_version\":1,\"keys\":{\"1\":{\"public_key\":\"$pem\"}}}}""#,
    refuses: "printf 'Code: 403. Errors:\\n\\n* invalid token\\n' >&2; exit 2",
};
const PLUGIN: Tool = Tool {
    program: "qkey-signer-test",
    source: "plugin:test:x",
    sign: r#"*'"sign"'*"#,
    shows: r#"echo "{\"version\":1,\"public_key\":\"$public\"}""#,
    refuses: r#"echo '{"version":1,"error":{"kind":"wrong-secret","message":"wrong PIN"}}'"#,
};
const OPENSSL: Tool = Tool {
    program: "openssl",
    source: "openssl:card:9c?provider=card,default&passphrase-env=PIN",
    sign: "*dgst*",
    shows: r#"case $* in *-passin*) cat public.pem;; *) echo "Enter PIN:" >&2; exit 1;; esac"#,
    refuses: "echo 'card: 63C2' >&2; exit 1",
};

const OPENSSL_WITHOUT_ATTRIBUTE: Tool = Tool {
    source: "openssl:card:9c?provider=card,default",
    shows: "cat public.pem",
    ..OPENSSL
};

impl Tool {
    /// Unlocks four snapshots, four at a time; returns the run, and how many signatures were asked
    /// for.
    fn unlock_four(&self, refuses: &str) -> (Run, usize) {
        let mock = Mock::with_four_locked(ALICE_PUBLIC);
        let qkey = Qkey::with_mock(&mock).env("PIN", "4321");
        prints(&qkey, "openssl pkey -in alice.pem -pubout -out public.pem");
        let text = format!(
            "#!/bin/sh
             public={ALICE_PUBLIC}
             case \"$* $(cat)\" in
                 {sign}) echo >>signs; {refuses};;
                 *) {shows};;
             esac\n",
            sign = self.sign,
            shows = self.shows,
        );
        let qkey = with_program(qkey, self.program, &text);
        let ids = ["--id=1", "--id=2", "--id=3", "--id=4", "--jobs=4"];
        let run = qkey.run([&["unlock", "--key", self.source], &ids[..]].concat());
        assert_eq!(mock.count("snapshot_unlock_snapshot"), 0, "{run:?}");
        let signs = fs::read_to_string(qkey.path("signs")).unwrap_or_default();
        (run, signs.lines().count())
    }
}

#[test]
fn refused_secret_or_login_is_used_once_for_many_snapshots() {
    let denied = r#"echo '{"version":1,"error":{"kind":"denied","message":"wrong PIN"}}'"#;
    for (tool, refuses) in [
        (AWS, AWS.refuses),
        (
            AWS,
            "echo 'An error occurred (AccessDeniedException) when calling the Sign operation: no' \
             >&2; exit 254",
        ),
        (
            AWS,
            "echo 'Enter MFA code for arn:aws:iam::1:mfa/a: ' >&2; exit 255",
        ),
        (GCLOUD, GCLOUD.refuses),
        (AZ, AZ.refuses),
        (BAO, BAO.refuses),
        (PLUGIN, PLUGIN.refuses),
        (PLUGIN, denied),
        (OPENSSL, OPENSSL.refuses),
        // Its PIN stands in the configuration of OpenSSL.
        (OPENSSL_WITHOUT_ATTRIBUTE, OPENSSL.refuses),
        (OPENSSL, "exit 1"),
    ] {
        let (run, signs) = tool.unlock_four(refuses);
        assert_eq!((run.code, signs), (3, 1), "{refuses}: {run:?}");
        let told = format!("cannot sign with {}", tool.source);
        assert_eq!(run.stderr.matches(&told).count(), 4, "{run:?}");
    }
}

#[test]
fn other_failures_do_not_stop_the_remaining_snapshots() {
    for (tool, fails) in [
        (
            AWS,
            "echo 'An error occurred (ThrottlingException) when calling the Sign operation: no' \
             >&2; exit 254",
        ),
        (
            PLUGIN,
            r#"echo '{"version":1,"error":{"kind":"failed","message":"no network"}}'"#,
        ),
    ] {
        let (run, signs) = tool.unlock_four(fails);
        assert_eq!((run.code, signs), (3, 4), "{fails}: {run:?}");
    }
}

#[test]
fn keys_of_one_holder_share_a_refusal() {
    // Nothing opens, whatever the passphrase.
    let text = "#!/bin/sh
        case $* in
            *-passin*) echo >>tries; echo \"$words\" >&2;;
            *) echo 'Enter PIN:' >&2;;
        esac
        exit 1\n";
    let with_two_keys = |words: &str, one: &str, two: &str| {
        let qkey = Qkey::with_mock(&Mock::with_four_locked(ALICE_PUBLIC));
        let qkey = with_program(qkey, "openssl", text);
        let qkey = qkey.env("PIN", "4321").env("words", words);
        qkey.configure(&format!(
            "[keys]\none.source = {one:?}\ntwo.source = {two:?}\n"
        ));
        qkey
    };
    let at = |key: &str| format!("openssl:{key}passphrase-env=PIN");
    for (words, one, two, tries) in [
        ("Could not read key", "card:a?", "card:b?", 1),
        ("card: 63C2", "card:a?", "card:b?", 1),
        (
            "card: 63C2",
            "a.pem?provider=card,default&",
            "card:b?provider=base,card&",
            1,
        ),
        (
            "Could not read key",
            "/dev/null?",
            "/dev/../dev/null?provider=legacy,default&",
            1,
        ),
        ("Could not read key", "card:a?", "token:b?", 2),
        ("Could not read key", "/a.pem?", "/b.pem?", 2),
        (
            "The private key was not found at: a",
            "card:a?",
            "card:b?",
            2,
        ),
    ] {
        let qkey = with_two_keys(words, &at(one), &at(two));
        let run = qkey.run(["keys", "list"]);
        assert_eq!(
            run.stderr.matches("warning: skipped ").count(),
            2,
            "{run:?}"
        );
        let counted = fs::read_to_string(qkey.path("tries")).expect("a try");
        assert_eq!(counted.lines().count(), tries, "{one} {two}: {run:?}");
    }
}

/// Keys in a TPM, and a cluster that holds one of them.
struct Tpm {
    qkey: Qkey,
    mock: Mock,
    _tpm: Swtpm,
}

/// `locked.pem` and `other.pem` have the passphrase `1234`, as has the key with the handle
/// 0x81000005; `open.pem` has none.
const MAKE_KEYS: &str = "
    generate() {
        openssl genpkey -provider tpm2 -provider default -propquery '?provider=tpm2' \\
            -algorithm EC -pkeyopt group:P-256 \"$@\"
    }
    generate -out open.pem
    generate -pkeyopt user-auth:1234 -out locked.pem
    generate -pkeyopt user-auth:1234 -out other.pem
    tpm2_createprimary -Q -C o -c primary
    tpm2_create -Q -C primary -G ecc256:ecdsa-sha256 -u public -r private -p 1234 \\
        -a 'sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth'
    tpm2_flushcontext -t; tpm2_load -Q -C primary -u public -r private -c loaded
    tpm2_flushcontext -t; tpm2_evictcontrol -Q -C o -c loaded 0x81000005
    tpm2_flushcontext -t";

const LOCKED: &str = "openssl:locked.pem?provider=tpm2,default";
const OTHER: &str = "openssl:other.pem?provider=tpm2,default";
const HANDLE: &str = "openssl:handle:0x81000005?provider=tpm2,default";
const HANDLE_WITH_PASS: &str = "openssl:handle:0x81000005%3Fpass?provider=tpm2,default";

impl Tpm {
    fn new() -> Self {
        let mock = Mock::new();
        let qkey = Qkey::with_mock(&mock);
        let state = qkey.path("state");
        fs::create_dir(&state).expect("a folder");
        let tpm = Swtpm::start(&state);
        let qkey = qkey
            .env("TPM2OPENSSL_TCTI", tpm.address())
            .env("TPM2TOOLS_TCTI", tpm.address())
            .env("RIGHT", "1234")
            .env("WRONG", "4321");
        prints(&qkey, &format!("{{ {MAKE_KEYS}; }} 2>&1"));
        Self {
            qkey,
            mock,
            _tpm: tpm,
        }
    }

    /// Makes the cluster hold the public half of a key, and lock snapshots 1 to 5 with it.
    fn store(&self, source: &str) {
        let public = self.qkey.run(["pubkey", "--format=base64", source]);
        assert_eq!(public.code, 0, "{public:?}");
        let public = public.stdout.trim();
        let id = match &self.mock.key_ids()[..] {
            [] => self.mock.add_key("lock", "", public),
            [id, ..] => {
                self.mock.set_key_field(id, "public_key", public);
                id.clone()
            }
        };
        for snapshot in 1..=5 {
            if self.mock.snapshot_ids().contains(&snapshot) {
                self.mock.set_snapshot_field(snapshot, "lock_key", &id);
            } else {
                self.mock.add_snapshot(snapshot, "daily", Some(&id));
            }
        }
    }

    /// How many tries a run costs; the count starts over afterwards.
    fn tries(&self, args: &[&str]) -> (Run, usize) {
        let run = self.qkey.run(args);
        let counter = prints(
            &self.qkey,
            "tpm2_getcap properties-variable | awk '/LOCKOUT_COUNTER/ {print $2}'
             tpm2_dictionarylockout -c",
        );
        let digits = counter.trim().trim_start_matches("0x");
        (run, usize::from_str_radix(digits, 16).expect("a number"))
    }
}

const IDS: [&str; 6] = ["unlock", "--id=1", "--id=2", "--id=3", "--id=4", "--id=5"];

#[test]
fn refused_passphrase_costs_a_tpm_one_try_per_run() {
    let tpm = Tpm::new();
    let with = |source: &str, variable: &str| format!("{source}&passphrase-env={variable}");
    let [wrong, other_wrong] = [LOCKED, OTHER].map(|source| with(source, "WRONG"));
    let right = with(LOCKED, "RIGHT");
    tpm.qkey.configure(&format!(
        "[keys]\none.source = {:?}\ntwo.source = {:?}\n",
        wrong.replace(
            "locked.pem",
            &tpm.qkey.path("locked.pem").display().to_string()
        ),
        other_wrong.replace(
            "other.pem",
            &tpm.qkey.path("other.pem").display().to_string()
        ),
    ));
    let handle = with(HANDLE_WITH_PASS, "WRONG");
    for (stored, args, tries) in [
        (
            &right,
            &[&IDS[..], &["--key", &wrong, "--jobs=8"]].concat()[..],
            1,
        ),
        (
            &right,
            &[&IDS[..], &["--key", &wrong, "--jobs=1"]].concat(),
            1,
        ),
        (
            &right,
            &[&IDS[..], &["--key", &wrong, "--dry-run"]].concat(),
            1,
        ),
        (&right, &IDS, 1),
        (&right, &["keys", "list"], 0),
        (
            &right,
            &[
                "replace",
                "--key-id=1",
                "--old-key",
                &wrong,
                "--new-key",
                &other_wrong,
            ],
            1,
        ),
        (
            &handle,
            &[&IDS[..], &["--key", &handle, "--jobs=8"]].concat(),
            1,
        ),
        // Without `?pass`, every signature tries no passphrase at all.
        (
            &handle,
            &[&IDS[..], &["--key", HANDLE, "--jobs=8"]].concat(),
            1,
        ),
    ] {
        tpm.store(stored);
        let (run, tried) = tpm.tries(args);
        assert_eq!(tried, tries, "{args:?}: {run:?}");
        assert_eq!(
            run.code,
            if tries == 0 { 0 } else { 3 },
            "{args:?}: {run:?}"
        );
    }
    tpm.store(&right);
    let unlock = [&IDS[..], &["--key", LOCKED, "--jobs=8"]].concat();
    let mut session = Terminal::new().start(tpm.qkey.command_with_terminal(unlock));
    session.answer("Enter the passphrase of locked.pem: ", "4321");
    let ended = session.end();
    assert_eq!(ended.screen.matches("Enter").count(), 1, "{}", ended.screen);
    let (_, tried) = tpm.tries(&["--version"]);
    assert_eq!(tried, 1, "a typed passphrase is tried once, too");
    let (run, tried) = tpm.tries(&[&IDS[..], &["--key", &right, "--jobs=8"]].concat());
    assert_eq!((run.code, tried), (0, 0), "{run:?}");
}

#[test]
fn locked_tpm_is_named() {
    let tpm = Tpm::new();
    let source = format!("{LOCKED}&passphrase-env=RIGHT");
    prints(&tpm.qkey, "tpm2_dictionarylockout -s -n 1 -t 1000 -l 1000");
    let wrong = format!("{LOCKED}&passphrase-env=WRONG");
    assert_eq!(tpm.qkey.run(["sign", "--key", &wrong, "x"]).code, 3);
    let run = tpm.qkey.run(["sign", "--key", &source, "x"]);
    assert_data_eq!(transcript(&run), str![[r#"
--- exit 3
error: cannot sign with openssl:locked.pem?provider=tpm2,default&passphrase-env=RIGHT
    [error:-1:2337 tpm:warn(2.0): authorizations for objects subject to DA protection are not allowed at this time because the TPM is in DA lockout mode
hint: the TPM locked itself after too many wrong passphrases: wait until the lockout ends, or reset it with its lockout password, as in `tpm2_dictionarylockout --clear-lockout`

"#]].raw());
}

/// The run, without the lines of OpenSSL and of the TPM's libraries that differ from version to
/// version.
fn transcript(run: &Run) -> String {
    let program = which::which("openssl").expect("openssl is on PATH");
    let shown = run.transcript();
    let shown = shown.replace(&*program.to_string_lossy(), "openssl");
    let is_shown = |line: &&str| {
        !["WARNING:", "ERROR:", "Error getting"]
            .iter()
            .any(|noise| line.contains(noise))
    };
    let lines = shown.lines().filter(is_shown);
    lines
        .map(|line| match line.split_once(":error:") {
            Some((_, error)) => format!(
                "    [error:{}\n",
                error.rsplit_once("::").map_or(error, |(_, words)| words)
            ),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn unused_passphrase_is_an_error() {
    let tpm = Tpm::new();
    tpm.qkey.write("pass", "1234");
    let cases = [
        "openssl:alice.pem?passphrase-file=pass",
        "openssl:alice.pem?provider=default&passphrase-file=pass",
        "openssl:open.pem?provider=tpm2,default&passphrase-file=pass",
        &format!("{HANDLE}&passphrase-file=pass"),
        HANDLE,
    ];
    let run = |source: &str| {
        let (run, tries) = tpm.tries(&["sign", "--key", source, "x"]);
        format!("==== {source}\n{}{tries} tries\n", transcript(&run))
    };
    let told: String = cases.map(run).concat();
    assert_data_eq!(told, str![[r#"
==== openssl:alice.pem?passphrase-file=pass
--- exit 3
error: cannot open openssl:alice.pem?passphrase-file=pass
  caused by: openssl opens it without a passphrase, so passphrase-file has no effect
hint: remove passphrase-file, or encrypt the key first: `openssl pkcs8 -topk8 -in alice.pem -out NEW`
0 tries
==== openssl:alice.pem?provider=default&passphrase-file=pass
--- exit 3
error: cannot open openssl:alice.pem?provider=default&passphrase-file=pass
  caused by: openssl opens it without a passphrase, so passphrase-file has no effect
hint: remove passphrase-file, or encrypt the key first: `openssl pkcs8 -topk8 -in alice.pem -out NEW`
0 tries
==== openssl:open.pem?provider=tpm2,default&passphrase-file=pass
--- exit 3
error: cannot open openssl:open.pem?provider=tpm2,default&passphrase-file=pass
  caused by: openssl opens it without a passphrase, so passphrase-file has no effect
hint: remove passphrase-file from the key source
0 tries
==== openssl:handle:0x81000005?provider=tpm2,default&passphrase-file=pass
--- exit 3
error: cannot open openssl:handle:0x81000005?provider=tpm2,default&passphrase-file=pass
  caused by: openssl opens it without a passphrase, so passphrase-file has no effect
hint: with this source, openssl asks for the passphrase: 'openssl:handle:0x81000005%3Fpass?provider=tpm2,default&passphrase-file=pass'; if the key has none, remove passphrase-file
0 tries
==== openssl:handle:0x81000005?provider=tpm2,default
--- exit 3
error: cannot sign with openssl:handle:0x81000005?provider=tpm2,default
    [error:-1:2446 tpm:session(1):the authorization HMAC check failed and DA counter incremented
hint: the key has a passphrase, but openssl did not ask for it; with this source it does: 'openssl:handle:0x81000005%3Fpass?provider=tpm2,default&passphrase-file=PATH'
1 tries

"#]].raw());
    // What the hints say works.
    for source in [
        format!("{HANDLE_WITH_PASS}&passphrase-file=pass"),
        HANDLE_WITH_PASS.replace("?provider", "?passphrase-file=pass&provider"),
    ] {
        let (run, tries) = tpm.tries(&["sign", "--key", &source, "x"]);
        assert_eq!((run.code, tries), (0, 0), "{run:?}");
    }
    prints(
        &tpm.qkey,
        "openssl pkcs8 -topk8 -in alice.pem -out NEW -passout file:pass
         qkey sign --key 'NEW?passphrase-file=pass' x",
    );
}

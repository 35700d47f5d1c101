//! Keys that only the `openssl` program can open: behind a provider or an engine, wrapped by a TPM,
//! or encrypted with an obsolete algorithm.
//!
//! Options and passphrases: the manual pages openssl-pkey(1), openssl-dgst(1),
//! openssl-passphrase-options(1), and provider(7).

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    Caution, Context, Opened, Signer, never_asked, open_encrypted,
    refusals::{Gate, holder_of},
    source::{Body, Source, SourceKind},
    tool::{self, Table, Tool, Vendor, table},
    uri::split_scheme,
};
use crate::{
    encoding::{Foreign, PublicPart},
    error::{Error, Kind as ErrorKind, Reason, Result},
    input, keyfile,
    parallel::lock,
    secret::Secret,
    signature::Signature,
    subprocess::{Command, Failure, Output},
    text::{quote, quote_path},
};

pub static KIND: SourceKind = SourceKind {
    body: Body::Path(names_file),
    attributes: &[PROVIDER, ENGINE],
    secret: Some("passphrase"),
    ..SourceKind::new("openssl", "openssl:PATH", open)
};

const PROVIDER: &str = "provider";
const ENGINE: &str = "engine";

const INSTALL: &str = "install OpenSSL: your system's package openssl";

/// How many times to ask for the passphrase of a file.
const TRIES: usize = 3;

/// In bytes; a file that refers to a key in a device is far smaller.
const KEY_LIMIT: usize = 64 << 10;

/// The longest passphrase in bytes: `openssl` cuts off the rest.
const PASSPHRASE_LIMIT: usize = 1023;

const TRIED_ONCE: &str = "the passphrase or PIN was tried only once; check it before you run this \
                          again, because a token or TPM locks after a few wrong ones";

/// The provider of keys in a TPM 2.0.
const TPM: &str = "tpm2";

/// Providers that hold no keys.
const SOFTWARE: [&str; 5] = ["default", "legacy", "base", "fips", "null"];

static OPENSSL: Vendor = Vendor {
    table: TABLE,
    timed_out: "check the device or service that holds the key, or raise --timeout SECONDS",
    unfit: "name an ECDSA P-256 key in the key source",
    stranger: "the program `openssl` on PATH may not be OpenSSL",
};

/// An entry of OpenSSL's error queue. Drivers of tokens and TPMs add entries of their own.
macro_rules! queued {
    ($pattern:literal) => {
        concat!(r"^([0-9A-F]+:)?error:.*", $pattern)
    };
}

/// What is unclassified may be a refused passphrase: see [`may_be_refusal`].
const TABLE: Table = table! {
    r"^\w+: unable to load provider " => Unsupported,
        "install the provider, or set OPENSSL_MODULES to its directory; `openssl list -providers` \
         lists the active ones";
    "^[Ii]nvalid engine " => Unsupported,
        "install the engine, or set OPENSSL_ENGINES to its directory; if this OpenSSL does not \
         support engines, use a provider";
    queued!("DA lockout mode") => Denied,
        "the TPM locked itself after too many wrong passphrases: wait until the lockout ends, or \
         reset it with its lockout password, as in `tpm2_dictionarylockout --clear-lockout`";
    // Only the first of these counts as a wrong attempt.
    queued!("(the authorization HMAC check failed|\
             authorization failure without DA implications|PIN (is )?incorrect)") => WrongSecret,
        TRIED_ONCE;
    queued!("PIN (is )?locked") => Denied,
        "unlock the token with its SO PIN or PUK, using the vendor's tool";
    "^The private key was not found at: " => NotFound,
        "the token does not have this key: check what follows openssl: in the key source";
    queued!("tpm2:.*cannot load key") => NotFound,
        "this TPM does not have the key or cannot load it: check the handle, and that this TPM \
         made the key";
    queued!("missing private key") => Unsupported,
        "name the provider that holds the key first: ?provider=NAME,default";
    queued!("inner_evp_generic_fetch:unsupported:") => Unsupported,
        "the key's encryption needs another provider: for an obsolete one, add \
         ?provider=legacy,default to the key source";
    queued!("No store loader found") => Unsupported,
        "this kind of key needs a provider: add ?provider=NAME,default to the key source (the \
         provider default reads files)";
    queued!("system library:[^:]*:No such file or directory:") => NotFound, "check the path";
    queued!("system library:[^:]*:Permission denied:") => Denied,
        "run qkey as the user who owns the key file";
    // A prompt by openssl or a driver, which nobody can answer here.
    "^(Enter (pass phrase|PIN)|([0-9A-F]+:)?error:[0-9A-F]+:UI routines:)" => NeedsPerson,
        "give the passphrase or PIN with an attribute, such as passphrase-file=PATH";
    "^[Cc]ould not read " => _,
        "openssl cannot read a private key there: try `openssl pkey -noout -in {key}`";
};

/// `openssl`, and the key that it uses.
#[derive(Clone)]
struct OpenSsl {
    tool: Tool,
    /// A path, a provider's URI, or an engine's name for the key.
    key: String,
    /// The flags for providers or an engine, which every command takes.
    options: Vec<String>,
    uses_engine: bool,
    /// What checks the passphrase, and may count wrong ones.
    holder: Holder,
    context: Arc<Context>,
}

/// What checks a passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    /// `openssl` itself, which decrypts this file.
    File(PathBuf),
    /// A token, a TPM or a service behind a provider or an engine.
    Device(String),
}

impl Holder {
    fn of(source: &Source) -> Self {
        let providers = source.attribute(PROVIDER).unwrap_or_default().split(',');
        let engine = source.attribute(ENGINE);
        let devices: Vec<&str> = providers
            .filter(|name| !name.is_empty() && !SOFTWARE.contains(name))
            .chain(engine)
            .collect();
        let path = Path::new(source.body());
        // Without the attribute, OpenSSL's configuration selects the provider.
        let device = match split_scheme(source.body()) {
            _ if !devices.is_empty() => Some(devices.join(",")),
            Some(("handle", _)) => Some(TPM.to_owned()),
            Some((scheme, _)) => Some(scheme.to_owned()),
            None => device_in(path),
        };
        device.map_or_else(|| Self::File(path.to_owned()), Self::Device)
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => holder_of(path),
            Self::Device(name) => format!("openssl:{name}"),
        }
    }

    /// How many times to ask for the passphrase: only once where a few wrong PINs lock a token.
    fn tries(&self) -> usize {
        match self {
            Self::File(_) => TRIES,
            Self::Device(_) => 1,
        }
    }

    fn caution(&self) -> Caution {
        match self {
            // The key was decrypted, so the passphrase is right.
            Self::File(_) => Caution::FirstUse,
            // OpenSSL's configuration may contain a PIN.
            Self::Device(_) => Caution::Secret,
        }
    }
}

impl OpenSsl {
    fn find(source: &Source, context: &Arc<Context>) -> Result<Self> {
        let key = source.body();
        let invalid = |why: &str, hint: &str| Err(source.invalid(why).hint(hint));
        if key == "-" {
            let why = "openssl cannot read the key from stdin";
            return invalid(why, "name a file or a URI");
        }
        if key.to_ascii_lowercase().contains("pin-value") {
            return invalid(
                "openssl would take the PIN as an argument, which every user can read",
                "remove pin-value from the URI, and add the attribute passphrase-file=PATH",
            );
        }
        let providers = source.attribute(PROVIDER).map(|list| list.split(','));
        let providers: Vec<&str> = providers.into_iter().flatten().collect();
        if providers.contains(&"") {
            return invalid(
                "it contains an empty provider name",
                "separate providers with one comma, as in ?provider=legacy,default",
            );
        }
        let engine = source.attribute(ENGINE);
        let mut options: Vec<String> = Vec::new();
        let mut add = |flag: &str, value: &str| options.extend([flag.into(), value.into()]);
        providers.iter().for_each(|name| add("-provider", name));
        if let Some(first) = providers.first() {
            // Other providers would try to sign without the private key, which they cannot reach.
            add("-propquery", &format!("?provider={first}"));
        }
        if let Some(name) = engine {
            add("-engine", name);
        }
        Ok(Self {
            tool: Tool::find(&OPENSSL, &["openssl"], INSTALL, source, context)?.naming_key([key]),
            key: key.to_owned(),
            options,
            uses_engine: engine.is_some(),
            holder: Holder::of(source),
            context: context.clone(),
        })
    }

    /// A command on the key, which follows `key_flag`; its form follows `form_flag`.
    fn command(
        &self,
        command: &str,
        key_flag: &str,
        form_flag: &str,
        passphrase: Option<&Secret>,
    ) -> Command {
        let form = self.uses_engine.then_some([form_flag, "ENGINE"]);
        let run = self
            .tool
            .command()
            .args([command, key_flag, &self.key])
            .args(&self.options)
            .args(form.into_iter().flatten());
        match passphrase {
            Some(passphrase) => run
                .args(["-passin", "stdin"])
                .secret_line(passphrase.as_bytes()),
            None => run,
        }
    }

    fn read(&self, passphrase: Option<&Secret>) -> std::result::Result<Output, Failure> {
        let command = self.command("pkey", "-in", "-inform", passphrase);
        self.run(&command.arg("-pubout"))
    }

    /// Runs a command. Commands that use a TPM take turns: without a resource manager, a TPM has room
    /// for only one at a time.
    fn run(&self, command: &Command) -> std::result::Result<Output, Failure> {
        static TURN: Mutex<()> = Mutex::new(());
        let uses_tpm = matches!(&self.holder, Holder::Device(name) if name == TPM);
        let _turn = uses_tpm.then(|| lock(&TURN));
        command.run()
    }

    /// The error of a command, which may have been given a passphrase.
    fn failed(&self, doing: &str, passphrase: Option<&Secret>, failure: &Failure) -> Error {
        let error = self.tool.failed(doing, failure);
        match passphrase {
            Some(_) if may_be_refusal(failure, &error) => {
                let hint = match self.holder {
                    Holder::File(_) => {
                        format!("to check the passphrase by hand, run `{}`", self.by_hand())
                    }
                    Holder::Device(_) => TRIED_ONCE.to_owned(),
                };
                error.because(Reason::WrongSecret).hint(hint)
            }
            // A TPM treats a missing passphrase as a wrong one.
            None if error.reason() == Some(Reason::WrongSecret) => {
                let mut hint =
                    "the key has a passphrase, but openssl did not ask for it".to_owned();
                if let Some(source) = self.with_pass() {
                    let attributes = if source.contains('?') { '&' } else { '?' };
                    let source = quote(&format!("{source}{attributes}passphrase-file=PATH"));
                    hint += &format!("; with this source it does: {source}");
                }
                error.hint(hint)
            }
            _ => error,
        }
    }

    /// A command that opens the key and asks for its passphrase on the terminal.
    fn by_hand(&self) -> String {
        let words = ["openssl", "pkey", "-noout", "-in", &self.key];
        tool::typed(
            words
                .into_iter()
                .chain(self.options.iter().map(String::as_str)),
        )
    }

    /// Never offers a passphrase again to a holder that refused it in this run.
    fn gate(&self, passphrase: Option<&Secret>) -> Arc<Gate> {
        let refusals = &self.context.refusals;
        refusals.of_secret(&self.holder.name(), passphrase)
    }

    /// Opens the key with a passphrase, which a TPM only checks when it signs.
    fn open_with(self, passphrase: Secret) -> Result<Box<dyn Signer>> {
        if passphrase.as_bytes().len() > PASSPHRASE_LIMIT {
            let why = format!("openssl accepts at most {PASSPHRASE_LIMIT} bytes of passphrase");
            return Err(Error::new(ErrorKind::Key, why)
                .context(format!("cannot open {}", self.tool.title()))
                .hint("encrypt the key with a shorter passphrase"));
        }
        let given = Some(&passphrase);
        let output = self.gate(given).open(self.tool.title(), || {
            self.read(given)
                .map_err(|failure| self.failed("open", given, &failure))
        })?;
        self.signer(&output, Some(passphrase))
    }

    /// The error for a passphrase attribute when openssl does not ask for a passphrase.
    fn never_asked(&self, attribute: &str) -> Error {
        let hint = match (self.with_pass(), &self.holder) {
            (Some(source), _) => format!(
                "with this source, openssl asks for the passphrase: {}; if the key has none, \
                 remove {attribute}",
                quote(&source)
            ),
            (None, Holder::File(path)) => format!(
                "remove {attribute}, or encrypt the key first: `openssl pkcs8 -topk8 -in {} -out \
                 NEW`",
                quote_path(path)
            ),
            (None, Holder::Device(_)) => format!("remove {attribute} from the key source"),
        };
        let why = "openssl opens it without a passphrase";
        never_asked(self.tool.title(), why, attribute).hint(hint)
    }

    /// The key source in the form that makes openssl ask for a passphrase: with tpm2-openssl, a handle
    /// followed by `?pass`.
    fn with_pass(&self) -> Option<String> {
        let (scheme, handle) = split_scheme(&self.key)?;
        let may_follow = scheme == "handle" && !handle.contains('?');
        may_follow.then(|| {
            let with_pass = format!("{}%3Fpass", self.key);
            self.tool.title().replacen(&self.key, &with_pass, 1)
        })
    }

    /// The signer for the public key that [`Self::read`] returned.
    fn signer(self, output: &Output, passphrase: Option<Secret>) -> Result<Box<dyn Signer>> {
        let public_key = self.tool.public_key_pem(output)?;
        let caution = self.holder.caution();
        Ok(super::signer(public_key, caution, move |challenge| {
            self.sign(challenge, passphrase.as_ref())
        }))
    }

    fn sign(&self, challenge: &[u8], passphrase: Option<&Secret>) -> Result<Signature> {
        let file = self.tool.private_file(challenge)?;
        let command = self
            .command("dgst", "-sign", "-keyform", passphrase)
            .arg("-sha256")
            .arg(file.path());
        let gate = self.gate(passphrase);
        let output = gate.attempt(self.tool.title(), Caution::FirstUse, || {
            self.run(&command)
                .map_err(|failure| self.failed("sign with", passphrase, &failure))
        })?;
        let signature = output.stdout.as_slice();
        self.tool
            .signature(signature, Signature::from_der, "ASN.1 DER")
    }
}

/// Whether the passphrase may have been wrong. Neither openssl nor a token's driver always says so, so
/// an unclassified failure may be a refusal, too.
fn may_be_refusal(failure: &Failure, error: &Error) -> bool {
    match error.reason() {
        Some(Reason::WrongSecret | Reason::NeedsPerson) => true,
        Some(_) => false,
        None => matches!(failure, Failure::Exited { .. } | Failure::Killed { .. }),
    }
}

/// The device that holds the key, if the file only refers to one: a TPM, or the label of its PEM
/// block, such as `PKCS#11 PROVIDER URI`.
fn device_in(path: &Path) -> Option<String> {
    let file = path.to_owned();
    if !path.is_file() {
        return None;
    }
    let contents = input::read_to_end(|| File::open(file), KEY_LIMIT, None).ok()?;
    match keyfile::parse(&contents) {
        Err(keyfile::Error::Foreign(Foreign::Tpm)) => Some(TPM.to_owned()),
        Err(keyfile::Error::NoPrivateKey(parts)) => parts.into_iter().find_map(|part| match part {
            PublicPart::Other(label) => Some(label),
            _ => None,
        }),
        _ => None,
    }
}

/// Whether it names a file rather than a key of a provider or an engine.
pub fn names_file(source: &Source) -> bool {
    source.attribute(ENGINE).is_none() && split_scheme(source.body()).is_none()
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let openssl = OpenSsl::find(source, context)?;
    let failure = match (openssl.read(None), source.secret_attribute()) {
        // Ignoring it would leave the user believing that it protects the key.
        (Ok(_), Some(attribute)) => return Err(openssl.never_asked(attribute)),
        (Ok(output), None) => return openssl.signer(&output, None).map(Opened::Signer),
        (Err(failure), _) => failure,
    };
    let error = openssl.tool.failed("open", &failure);
    if error.reason() != Some(Reason::NeedsPerson) {
        return Err(error);
    }
    let (title, tries) = (openssl.tool.title().to_owned(), openssl.holder.tries());
    open_encrypted(source, context, title, tries, move |passphrase| {
        openssl.clone().open_with(passphrase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tool::tests::{assert_classifies, source};

    #[test]
    fn only_paths_are_based_on_a_directory() {
        for (text, names) in [
            ("openssl:key.pem", true),
            ("openssl:./a%3Ab.pem?provider=legacy,default", true),
            ("openssl:handle:0x81000001?provider=tpm2,default", false),
            ("openssl:pkcs11:object=x?provider=pkcs11", false),
            ("openssl:slot_0-id_01?engine=pkcs11", false),
        ] {
            assert_eq!(names_file(&source(text)), names, "{text}");
        }
    }

    #[test]
    fn keys_on_one_device_share_a_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.canonicalize()
                .expect("it is there")
                .display()
                .to_string()
        };
        let wrapped = "-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n";
        let tpm = write("tpm.pem", wrapped);
        let key = write("key.pem", "");
        let refers =
            "-----BEGIN PKCS#11 PROVIDER URI-----\nMAA=\n-----END PKCS#11 PROVIDER URI-----\n";
        let refers = write("refers.pem", refers);
        let file = format!("file:{key}");
        for (text, name) in [
            (format!("openssl:{key}"), file.as_str()),
            (format!("openssl:{key}?provider=legacy,default"), &file),
            (format!("openssl:{tpm}"), "openssl:tpm2"),
            (format!("openssl:{refers}"), "openssl:PKCS#11 PROVIDER URI"),
            (
                format!("openssl:{tpm}?provider=tpm2,default"),
                "openssl:tpm2",
            ),
            ("openssl:handle:0x81000001".into(), "openssl:tpm2"),
            (
                "openssl:handle:0x81000001%3Fpass?provider=base,tpm2".into(),
                "openssl:tpm2",
            ),
            ("openssl:pkcs11:object=x".into(), "openssl:pkcs11"),
            (
                "openssl:pkcs11:object=x?provider=pkcs11,default".into(),
                "openssl:pkcs11",
            ),
            (
                "openssl:slot_0-id_01?engine=pkcs11".into(),
                "openssl:pkcs11",
            ),
        ] {
            assert_eq!(Holder::of(&source(&text)).name(), name, "{text}");
        }
    }

    #[test]
    fn table_classifies_real_output_of_openssl() {
        let queued =
            |words: &str| format!("Could not read key from x\n4077DAC4C87F0000:error:{words}\n");
        let samples: &[&[&str]] = &[
            &[
                "pkey: unable to load provider nope\nHint: use -provider-path option or \
                 OPENSSL_MODULES environment variable.\n",
            ],
            &[
                "Invalid engine \"nope\"\nNo engine specified for loading key\nCould not read key from <stdin>\n",
            ],
            &[&queued(
                "4000000B:tpm2::-1:2337 tpm:warn(2.0): authorizations for objects subject to DA \
                 protection are not allowed at this time because the TPM is in DA lockout mode",
            )],
            &[
                &queued(
                    "4000000B:tpm2::-1:2446 tpm:session(1):the authorization HMAC check failed and DA \
                     counter incremented",
                ),
                &queued(
                    "4000000B:tpm2::-1:2466 tpm:session(1):authorization failure without DA \
                     implications",
                ),
                &queued("820000A0:PKCS#11 module:pkcs11_login:PIN incorrect:p11_slot.c:195:"),
            ],
            &[&queued(
                "820000A4:PKCS#11 module:pkcs11_login:PIN locked:p11_slot.c:195:",
            )],
            &["The private key was not found at: slot_0-id_01\nCould not read key from x\n"],
            &[&queued(
                "40000001:tpm2::cannot load key:src/tpm2-provider-core.c:81:2 81000009",
            )],
            &[&queued(
                "1C800095:Provider routines:ecdsa_signverify_init:missing private key:x.c:1:",
            )],
            &[&queued(
                "0308010C:digital envelope routines:inner_evp_generic_fetch:unsupported:\
                 ../crypto/evp/evp_fetch.c:386:Global default library context, Algorithm \
                 (RC2-40-CBC : 0), Properties ()",
            )],
            &[
                "Could not open file or uri for loading key from handle:0x81000001\n\
                 400757A10E7F0000:error:80000002:system library:file_open:No such file or \
                 directory:file_store.c:266:calling stat(handle:0x81000001)\n\
                 400757A10E7F0000:error:1608010C:STORE routines:inner_loader_fetch:unsupported:\
                 store_meth.c:381:No store loader found. For standard store loaders you need at \
                 least one of the default or base providers available.\n",
            ],
            &["Could not open file or uri for loading key from nope.pem\n\
                 4047243F8A7F0000:error:80000002:system library:file_open:No such file or \
                 directory:file_store.c:266:calling stat(nope.pem)\n"],
            &["Could not open file or uri for loading key from k.pem\n\
                 40573CFE237F0000:error:8000000D:system library:BIO_new_file:Permission \
                 denied:bss_file.c:67:calling fopen(k.pem, rb)\n"],
            &[
                "Enter pass phrase for e.pem:\nCould not read key from e.pem\n",
                &queued(
                    "1400006B:UI routines:UI_process:processing error:ui_lib.c:573:while reading strings",
                ),
                "Enter PIN for token:\n",
            ],
            &[
                &queued(
                    "1C800064:Provider routines:ossl_cipher_unpadblock:bad decrypt:\
                     ciphercommon_block.c:129:",
                ),
                "Could not read private key from e.pem\n",
            ],
        ];
        assert_classifies(TABLE, samples);
    }
}

//! Keys that only the `openssl` program can open: behind a provider or an engine, wrapped by a TPM,
//! or encrypted in a way that has gone out of use.
//!
//! Options and pass phrases: the manual pages openssl-pkey(1), openssl-dgst(1),
//! openssl-passphrase-options(1), and provider(7).

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Caution, Context, Opened, Signer, never_asked,
    refusals::Gate,
    secret_error,
    source::{Body, Source, SourceKind, no_path},
    tool::{Hints, Tool},
    uri::split_scheme,
};
use crate::{
    encoding::{Foreign, PublicPart},
    error::{Error, Kind as ErrorKind, Reason, Result},
    input, keyfile,
    public_key::{self, PublicKey},
    secret::Secret,
    signature::Signature,
    subprocess::{Command, Failure, Output},
    text::{quote, quote_path},
};

pub static KIND: SourceKind = SourceKind {
    scheme: "openssl",
    form: "openssl:PATH",
    body: Body::Path(names_file),
    attributes: &[PROVIDER, ENGINE],
    confidential: &[],
    path_in: no_path,
    secret: Some(FAMILY),
    open,
    generate: None,
};

const FAMILY: &str = "passphrase";
const PROVIDER: &str = "provider";
const ENGINE: &str = "engine";

const INSTALL: &str = "install OpenSSL: the package openssl of your system";

/// How often a person may mistype the passphrase of a file.
const TRIES: usize = 3;

/// A file that refers to a key in a device is far smaller.
const KEY_LIMIT: usize = 64 << 10;

/// What `openssl` takes of a passphrase; it cuts off the rest.
const PASSPHRASE_LIMIT: usize = 1023;

/// What `openssl` says where nobody can be asked for a passphrase or PIN: itself, or its question.
const WANTS_PASSPHRASE: [&str; 3] = ["UI routines", "Enter pass phrase", "Enter PIN"];

/// What it says where it cannot decrypt as well: a wrong passphrase is not always told as one.
const CANNOT_READ: &str = "ould not read";

/// What it says of an encryption that no provider here knows.
const UNKNOWN_ENCRYPTION: &str = "inner_evp_generic_fetch:unsupported";

const TRIED_ONCE: &str = "the passphrase or PIN was tried once and is not tried again in this run; \
                          check it before you run this again, because several wrong ones lock a \
                          token or TPM";

/// The provider of TPM 2.0 keys.
const TPM: &str = "tpm2";

/// Providers that keep no keys of their own.
const SOFTWARE: [&str; 5] = ["default", "legacy", "base", "fips", "null"];

const HINTS: Hints = &[
    (
        "unable to load provider",
        None,
        "install the provider, or name the folder that it is in with OPENSSL_MODULES; `openssl list \
         -providers` shows those that are active",
    ),
    (
        "nvalid engine",
        None,
        "install the engine, or name the folder that it is in with OPENSSL_ENGINES; where OpenSSL has \
         none any more, a provider takes its place",
    ),
    (
        "DA lockout mode",
        Some(Reason::Denied),
        "the TPM has locked itself after too many wrong passphrases: wait until it opens again, or \
         reset it with its lockout password, as in `tpm2_dictionarylockout --clear-lockout`",
    ),
    // The first one counts the try, the second one is for keys that do without a count.
    (
        "authorization HMAC check failed",
        Some(Reason::WrongSecret),
        TRIED_ONCE,
    ),
    (
        "authorization failure without DA implications",
        Some(Reason::WrongSecret),
        TRIED_ONCE,
    ),
    ("PIN incorrect", Some(Reason::WrongSecret), TRIED_ONCE),
    (
        "PIN locked",
        Some(Reason::Denied),
        "unlock the token with its SO PIN or PUK, with the tool that came with it",
    ),
    (
        "private key was not found at",
        None,
        "the token has no such key: check what follows openssl:",
    ),
    (
        "tpm2::cannot load key",
        None,
        "this TPM does not have it or cannot load it: check the handle, and that the key was made \
         by this TPM",
    ),
    (
        "missing private key",
        None,
        "the provider that has the key must be named first: ?provider=NAME,default",
    ),
    (
        UNKNOWN_ENCRYPTION,
        None,
        "its encryption needs another provider: for one that has gone out of use, add \
         ?provider=legacy,default to the key source",
    ),
    (
        "No store loader found",
        None,
        "its kind needs a provider: add ?provider=NAME,default to the key source; default is what \
         reads files",
    ),
    ("No such file or directory", None, "check the path"),
    (
        "Permission denied",
        None,
        "run this as the user who owns the key file",
    ),
    (
        CANNOT_READ,
        None,
        "it holds no private key that openssl reads like this: try `openssl pkey -noout -in {key}`",
    ),
];

/// `openssl`, and the key that it is to use.
#[derive(Clone)]
struct OpenSsl {
    title: String,
    tool: Tool,
    /// A path, a URI of a provider's, or what an engine calls the key.
    key: String,
    /// For providers or an engine, as every command takes them.
    options: Vec<String>,
    uses_engine: bool,
    /// What checks the passphrase, and may count the wrong ones.
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
        // Without the attribute, the configuration of OpenSSL names the provider.
        match (&devices[..], split_scheme(source.body())) {
            ([], Some(("handle", _))) => Self::Device(TPM.to_owned()),
            ([], Some((scheme, _))) => Self::Device(scheme.to_owned()),
            ([], None) => match device_in(path) {
                Some(device) => Self::Device(device),
                None => Self::File(path.canonicalize().unwrap_or_else(|_| path.to_owned())),
            },
            (devices, _) => Self::Device(devices.join(",")),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => format!("file:{}", path.display()),
            Self::Device(name) => format!("openssl:{name}"),
        }
    }

    /// How often a person may mistype the passphrase: once where a few wrong PINs lock a token.
    fn tries(&self) -> usize {
        match self {
            Self::File(_) => TRIES,
            Self::Device(_) => 1,
        }
    }
}

struct OpenSslSigner {
    openssl: OpenSsl,
    passphrase: Option<Secret>,
    public_key: PublicKey,
}

impl Signer for OpenSslSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let tool = &self.openssl.tool;
        let file = tool.private_file(challenge)?;
        let passphrase = self.passphrase.as_ref();
        let command = self
            .openssl
            .command("dgst", "-sign", "-keyform", passphrase)
            .arg("-sha256")
            .arg(file.path());
        let openssl = &self.openssl;
        let gate = openssl.gate(passphrase);
        let output = gate.attempt(&openssl.title, Caution::FirstUse, || {
            openssl.run(&command).map_err(|failure| match passphrase {
                Some(_) => openssl.failed_with_passphrase("sign with", &failure),
                None => openssl.failed_without_passphrase("sign with", &failure),
            })
        })?;
        Signature::from_der(&output.stdout)
            .map_err(|_| tool.not_a_signature("ASN.1 DER", &output.stdout))
    }

    fn caution(&self) -> Caution {
        match self.openssl.holder {
            // It was decrypted, so the passphrase is right.
            Holder::File(_) => Caution::FirstUse,
            // A PIN may also stand in OpenSSL's configuration.
            Holder::Device(_) => Caution::Secret,
        }
    }
}

impl OpenSsl {
    fn find(source: &Source, context: &Arc<Context>) -> Result<Self> {
        let key = source.body();
        if key == "-" {
            return Err(source
                .invalid("openssl is given no key on stdin")
                .hint("name a file or a URI"));
        }
        if key.to_ascii_lowercase().contains("pin-value") {
            return Err(source
                .invalid("openssl would get the PIN as an argument, which every user can read")
                .hint("leave pin-value out of the URI, and append passphrase-file=PATH as an attribute"));
        }
        let providers: Vec<&str> = source
            .attribute(PROVIDER)
            .map_or_else(Vec::new, |list| list.split(',').collect());
        if providers.contains(&"") {
            return Err(source
                .invalid("a provider has no name")
                .hint("separate several with one comma: ?provider=legacy,default"));
        }
        let mut options: Vec<String> = providers
            .iter()
            .flat_map(|name| ["-provider".to_owned(), (*name).to_owned()])
            .collect();
        if let Some(first) = providers.first() {
            // What another one does, it does without the private key, which is not in its hands.
            options.extend(["-propquery".to_owned(), format!("?provider={first}")]);
        }
        let engine = source.attribute(ENGINE);
        options.extend(
            engine
                .into_iter()
                .flat_map(|name| ["-engine".into(), name.into()]),
        );
        let title = source.text();
        Ok(Self {
            tool: Tool::find(title, &["openssl"], INSTALL, context.timeout, HINTS)?
                .naming_key(quote_path(Path::new(key))),
            title: title.to_owned(),
            key: key.to_owned(),
            options,
            uses_engine: engine.is_some(),
            holder: Holder::of(source),
            context: context.clone(),
        })
    }

    /// A command on the key, which `key_flag` introduces, and its form `form_flag`.
    fn command(
        &self,
        command: &str,
        key_flag: &str,
        form_flag: &str,
        passphrase: Option<&Secret>,
    ) -> Command {
        let run = self
            .tool
            .command()
            .args([command, key_flag, &self.key])
            .args(&self.options);
        let run = match self.uses_engine {
            true => run.args([form_flag, "ENGINE"]),
            false => run,
        };
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

    /// Runs a command. Those that use a TPM take turns: without a resource manager, a few at a time
    /// are more than it has room for.
    fn run(&self, command: &Command) -> std::result::Result<Output, Failure> {
        static TURN: Mutex<()> = Mutex::new(());
        let uses_tpm = matches!(&self.holder, Holder::Device(name) if name == TPM);
        let _turn = uses_tpm.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        command.run()
    }

    /// The error of a command that was given a passphrase.
    fn failed_with_passphrase(&self, doing: &str, failure: &Failure) -> Error {
        let error = self.tool.failed(doing, failure);
        if !self.may_be_refusal(failure) {
            return error;
        }
        let hint = match self.holder {
            Holder::File(_) => format!("to try a passphrase by hand: `{}`", self.by_hand()),
            Holder::Device(_) => TRIED_ONCE.to_owned(),
        };
        error.because(Reason::WrongSecret).hint(hint)
    }

    /// Whether a command may have failed for want of the right passphrase: it says so, or cannot read
    /// the key for no other reason that is known. A token's driver may say it in any words.
    fn may_be_refusal(&self, failure: &Failure) -> bool {
        let said = failure.to_string();
        match HINTS.iter().find(|(words, ..)| said.contains(words)) {
            Some((words, reason, _)) => {
                *words == CANNOT_READ || *reason == Some(Reason::WrongSecret)
            }
            None => {
                let has_ended = matches!(failure, Failure::Exited { .. } | Failure::Killed { .. });
                has_ended && matches!(self.holder, Holder::Device(_))
            }
        }
    }

    /// The error of a command that was given no passphrase, which a TPM counts as a wrong one.
    fn failed_without_passphrase(&self, doing: &str, failure: &Failure) -> Error {
        let error = self.tool.failed(doing, failure);
        if error.reason() != Some(Reason::WrongSecret) {
            return error;
        }
        let hint = match self.with_pass() {
            Some(source) => {
                let attributes = if source.contains('?') { '&' } else { '?' };
                let source = quote(&format!("{source}{attributes}passphrase-file=PATH"));
                format!(
                    "the key has a passphrase, and openssl did not ask for it; this source makes it \
                     ask: {source}"
                )
            }
            None => "the key has a passphrase, and openssl did not ask for it".to_owned(),
        };
        error.hint(hint)
    }

    /// A command that opens the key and asks for its passphrase on the terminal.
    fn by_hand(&self) -> String {
        let words = ["openssl", "pkey", "-noout", "-in", &self.key];
        let words = words
            .into_iter()
            .chain(self.options.iter().map(String::as_str));
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Keeps a passphrase from what has refused it in this run.
    fn gate(&self, passphrase: Option<&Secret>) -> Arc<Gate> {
        let refusals = &self.context.refusals;
        refusals.of_secret(&self.holder.name(), passphrase)
    }

    /// Opens the key with a passphrase, which a TPM looks at no sooner than it signs.
    fn open_with(&self, passphrase: &Secret) -> Result<Output> {
        self.gate(Some(passphrase)).open(&self.title, || {
            self.read(Some(passphrase))
                .map_err(|failure| self.failed_with_passphrase("open", &failure))
        })
    }

    /// The error of an attribute that gives a passphrase nobody asks for.
    fn never_asked(&self, attribute: &str) -> Error {
        let hint = match (self.with_pass(), &self.holder) {
            (Some(source), _) => format!(
                "this source makes openssl ask for the passphrase: {}; if the key has none, remove \
                 {attribute}",
                quote(&source)
            ),
            (None, Holder::File(_)) => format!(
                "remove {attribute}, or encrypt the key first: `openssl pkcs8 -topk8 -in {} -out \
                 NEW`",
                quote_path(Path::new(&self.key))
            ),
            (None, Holder::Device(_)) => format!("remove {attribute} from the key source"),
        };
        never_asked(
            &self.title,
            "openssl opens it without a passphrase",
            attribute,
        )
        .hint(hint)
    }

    /// The key source in the form that has a passphrase: tpm2-openssl asks for that of a handle when
    /// `?pass` follows it.
    fn with_pass(&self) -> Option<String> {
        let (scheme, handle) = split_scheme(&self.key)?;
        let may_follow = scheme == "handle" && !handle.contains('?');
        may_follow.then(|| {
            let with_pass = format!("{}%3Fpass", self.key);
            self.title.replacen(&self.key, &with_pass, 1)
        })
    }

    /// The signer for what [`Self::read`] gave.
    fn signer(self, output: &Output, passphrase: Option<Secret>) -> Result<Box<dyn Signer>> {
        let pem = str::from_utf8(&output.stdout).unwrap_or_default();
        let public_key = PublicKey::from_pem(pem).map_err(|error| match error {
            public_key::Error::NotPem => {
                let error = self.tool.unexpected("a public key in PEM", &output.stdout);
                error.hint("what is called openssl may be another program")
            }
            error => {
                let hint = "name an ECDSA P-256 key in the key source";
                self.tool.unusable(&error).hint(hint)
            }
        })?;
        Ok(Box::new(OpenSslSigner {
            openssl: self,
            passphrase,
            public_key,
        }))
    }

    /// # Errors
    /// When `openssl` would cut it off.
    fn check(&self, passphrase: Secret) -> Result<Secret> {
        match passphrase.as_bytes().len() {
            0..=PASSPHRASE_LIMIT => Ok(passphrase),
            _ => {
                let why = format!("openssl takes passphrases of up to {PASSPHRASE_LIMIT} bytes");
                Err(Error::new(ErrorKind::Key, why)
                    .context(format!("cannot open {}", self.title))
                    .hint("encrypt the key under a shorter one"))
            }
        }
    }

    fn ask_and_open(self) -> Result<Box<dyn Signer>> {
        let what = format!("the passphrase of {}", self.key);
        let (mut attempt, tries) = (1, self.holder.tries());
        loop {
            let passphrase = self
                .context
                .asker
                .ask(&what)
                .map_err(|error| secret_error(&self.title, FAMILY, &error))?;
            let passphrase = self.check(passphrase)?;
            match self.open_with(&passphrase) {
                Ok(output) => return self.signer(&output, Some(passphrase)),
                Err(error) if attempt < tries && error.reason() == Some(Reason::WrongSecret) => {
                    let key = &self.key;
                    log::warn!("wrong passphrase for {key} (attempt {attempt} of {tries})");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What has the key, if a file only refers to one: a TPM, or what the provider of the PEM block's label
/// reaches, such as `PKCS#11 PROVIDER URI`.
fn device_in(path: &Path) -> Option<String> {
    let file = path.to_owned();
    let contents = match path.is_file() {
        true => input::read_to_end(|| File::open(file), KEY_LIMIT, None).ok()?,
        false => return None,
    };
    match keyfile::parse(&contents) {
        Err(keyfile::Error::Foreign(Foreign::Tpm)) => Some(TPM.to_owned()),
        Err(keyfile::Error::NoPrivateKey(parts)) => parts.into_iter().find_map(|part| match part {
            PublicPart::Other(label) => Some(label),
            _ => None,
        }),
        _ => None,
    }
}

/// Whether it names a file, rather than what a provider or an engine knows.
pub fn names_file(source: &Source) -> bool {
    source.attribute(ENGINE).is_none() && split_scheme(source.body()).is_none()
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let openssl = OpenSsl::find(source, context)?;
    let failure = match openssl.read(None) {
        Ok(output) => {
            return match source.secret_attribute() {
                // It would never be used, and somebody believes that it protects the key.
                Some(attribute) => Err(openssl.never_asked(attribute)),
                None => openssl.signer(&output, None).map(Opened::Signer),
            };
        }
        Err(failure) => failure,
    };
    let said = failure.to_string();
    if !WANTS_PASSPHRASE.iter().any(|words| said.contains(words)) {
        return Err(openssl.tool.failed("open", &failure));
    }
    let Some(secret_source) = source.secret()? else {
        return Ok(Opened::Locked(Box::new(move || openssl.ask_and_open())));
    };
    let passphrase = context
        .asker
        .read(
            &secret_source,
            &format!("the passphrase of {}", openssl.key),
        )
        .map_err(|error| secret_error(&openssl.title, FAMILY, &error))?;
    let passphrase = openssl.check(passphrase)?;
    let output = openssl.open_with(&passphrase)?;
    openssl
        .signer(&output, Some(passphrase))
        .map(Opened::Signer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_is_based_on_a_folder() {
        for (text, names) in [
            ("openssl:key.pem", true),
            ("openssl:./a%3Ab.pem?provider=legacy,default", true),
            ("openssl:handle:0x81000001?provider=tpm2,default", false),
            ("openssl:pkcs11:object=x?provider=pkcs11", false),
            ("openssl:slot_0-id_01?engine=pkcs11", false),
        ] {
            let source = crate::signer::registry::parse(text).expect(text);
            assert_eq!(names_file(&source), names, "{text}");
        }
    }

    #[test]
    fn keys_on_one_device_share_what_counts_their_tries() {
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
            let source = crate::signer::registry::parse(&text).expect(&text);
            assert_eq!(Holder::of(&source).name(), name, "{text}");
        }
    }
}

//! Keys that only the `openssl` program can open: behind a provider or an engine, wrapped by a TPM,
//! or encrypted in a way that has gone out of use.
//!
//! Options and pass phrases: the manual pages openssl-pkey(1), openssl-dgst(1),
//! openssl-passphrase-options(1), and provider(7).

use std::{path::Path, sync::Arc};

use super::{
    Context, Opened, Signer, secret_error,
    source::{Body, Kind, Source, no_path, split_scheme},
    tool::{Hints, Tool},
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    public_key::{self, PublicKey},
    secret::Secret,
    signature::Signature,
    subprocess::{Command, Failure, Output},
    text::quote_path,
};

pub static KIND: Kind = Kind {
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

/// What `openssl` takes of a passphrase; it cuts off the rest.
const PASSPHRASE_LIMIT: usize = 1023;

/// What `openssl` says where nobody can be asked for a passphrase or PIN: itself, or its question.
const WANTS_PASSPHRASE: [&str; 3] = ["UI routines", "Enter pass phrase", "Enter PIN"];

/// What it says where it cannot decrypt as well: a wrong passphrase is not always told as one.
const CANNOT_READ: &str = "ould not read";

/// What it says of an encryption that no provider here knows.
const UNKNOWN_ENCRYPTION: &str = "inner_evp_generic_fetch:unsupported";

const HINTS: Hints = &[
    (
        "unable to load provider",
        "install the provider, or name the folder that it is in with OPENSSL_MODULES; `openssl list \
         -providers` shows those that are active",
    ),
    (
        "nvalid engine",
        "install the engine, or name the folder that it is in with OPENSSL_ENGINES; where OpenSSL has \
         none any more, a provider takes its place",
    ),
    (
        "authorization HMAC check failed",
        "give the right passphrase; several wrong ones lock a TPM for a while",
    ),
    (
        "missing private key",
        "the provider that has the key must be named first: ?provider=NAME,default",
    ),
    (
        UNKNOWN_ENCRYPTION,
        "its encryption needs another provider: for one that has gone out of use, add \
         ?provider=legacy,default to the key source",
    ),
    (
        "No store loader found",
        "its kind needs a provider: add ?provider=NAME,default to the key source; default is what \
         reads files",
    ),
    ("No such file or directory", "check the path"),
    (
        "Permission denied",
        "run this as the user who owns the key file",
    ),
    (
        CANNOT_READ,
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
    /// How often a person is asked: once where a few wrong PINs lock a token.
    tries: usize,
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
        let command = self
            .openssl
            .command("dgst", "-sign", "-keyform", self.passphrase.as_ref())
            .arg("-sha256")
            .arg(file.path());
        let output = tool.run("sign with", &command)?;
        Signature::from_der(&output.stdout)
            .map_err(|_| tool.not_a_signature("ASN.1 DER", &output.stdout))
    }
}

impl OpenSsl {
    fn find(source: &Source, context: &Context) -> Result<Self> {
        let key = source.body();
        if key == "-" {
            return Err(source
                .invalid("openssl is given no key on stdin")
                .hint("name a file or a URI"));
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
            tries: if names_file(source) { TRIES } else { 1 },
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
        self.command("pkey", "-in", "-inform", passphrase)
            .arg("-pubout")
            .run()
    }

    fn cannot_open(&self, failure: &Failure) -> Error {
        self.tool.failed("open", failure)
    }

    fn passphrase_refused(&self, failure: &Failure) -> Error {
        let error = self.cannot_open(failure);
        match is_wrong_passphrase(failure) {
            true => error.hint("give the right passphrase"),
            false => error,
        }
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

    fn ask_and_open(self, context: &Context) -> Result<Box<dyn Signer>> {
        let what = format!("the passphrase of {}", self.key);
        let mut tries_left = self.tries;
        loop {
            let passphrase = context
                .asker
                .ask(&what)
                .map_err(|error| secret_error(&self.title, FAMILY, &error))?;
            let passphrase = self.check(passphrase)?;
            tries_left -= 1;
            match self.read(Some(&passphrase)) {
                Ok(output) => return self.signer(&output, Some(passphrase)),
                Err(failure) if tries_left > 0 && is_wrong_passphrase(&failure) => {
                    log::warn!("that is not {what}; try again");
                }
                Err(failure) => return Err(self.passphrase_refused(&failure)),
            }
        }
    }
}

/// Whether it names a file, rather than what a provider or an engine knows.
pub fn names_file(source: &Source) -> bool {
    source.attribute(ENGINE).is_none() && split_scheme(source.body()).is_none()
}

/// Whether `openssl` that was given a passphrase failed for want of the right one.
fn is_wrong_passphrase(failure: &Failure) -> bool {
    let said = failure.to_string();
    said.contains(CANNOT_READ) && !said.contains(UNKNOWN_ENCRYPTION)
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let openssl = OpenSsl::find(source, context)?;
    let failure = match openssl.read(None) {
        Ok(output) => return openssl.signer(&output, None).map(Opened::Signer),
        Err(failure) => failure,
    };
    let said = failure.to_string();
    if !WANTS_PASSPHRASE.iter().any(|words| said.contains(words)) {
        return Err(openssl.cannot_open(&failure));
    }
    let Some(secret_source) = source.secret()? else {
        let context = context.clone();
        let unlock = move || openssl.ask_and_open(&context);
        return Ok(Opened::Locked(Box::new(unlock)));
    };
    let passphrase = context
        .asker
        .read(
            &secret_source,
            &format!("the passphrase of {}", openssl.key),
        )
        .map_err(|error| secret_error(&openssl.title, FAMILY, &error))?;
    let passphrase = openssl.check(passphrase)?;
    let output = openssl
        .read(Some(&passphrase))
        .map_err(|failure| openssl.passphrase_refused(&failure))?;
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
            let source = Source::parse(text).expect(text);
            assert_eq!(names_file(&source), names, "{text}");
        }
    }
}

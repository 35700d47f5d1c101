//! The registry of key sources: a new kind is one file in this folder and one line here.

use super::{
    agent, aws, azure, file, gcp, openssl, pkcs11, plugin,
    source::{self, Kinds, Source},
    vault,
};
use crate::error::Result;

/// Every kind of key source. A plain path is of the first kind.
pub static KINDS: Kinds = &[
    &file::KIND,
    &agent::KIND,
    &plugin::KIND,
    &aws::KIND,
    &gcp::KIND,
    &azure::KIND,
    &vault::KIND,
    &pkcs11::KIND,
    &openssl::KIND,
];

/// Parses a path or a URI.
///
/// # Errors
/// Of kind `usage`: an unknown scheme or attribute, or bad percent-encoding.
pub fn parse(text: &str) -> Result<Source> {
    Source::parse(text, KINDS)
}

/// [`source::redacted`] for all kinds.
pub fn redacted(text: &str) -> String {
    source::redacted(text, KINDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Kind, secret::SecretSource, signer::source::named_secrets};
    use std::path::{Path, PathBuf};

    fn error(text: &str) -> String {
        let error = parse(text).err().expect("an error");
        assert_eq!(error.kind(), Kind::Usage);
        format!("{error} / {}", error.hint_text().unwrap_or_default())
    }

    #[test]
    fn only_uris_are_decoded() {
        for (text, body) in [
            ("key.pem", "key.pem"),
            ("./a:b", "./a:b"),
            ("/tmp/100%.pem", "/tmp/100%.pem"),
            ("file:/tmp/a%3Fb", "/tmp/a?b"),
            ("-", "-"),
            ("key?passphrase-env=X", "key"),
        ] {
            assert_eq!(parse(text).ok().unwrap().body(), body, "{text}");
        }
    }

    #[test]
    fn relative_path_is_based_on_folder() {
        for (text, body) in [
            ("a.pem", "/etc/qkey/a.pem"),
            ("file:a.pem", "/etc/qkey/a.pem"),
            ("/a.pem", "/a.pem"),
            ("-", "-"),
        ] {
            let source = parse(text).ok().unwrap();
            assert_eq!(
                source.based_on(Path::new("/etc/qkey")).unwrap().body(),
                body
            );
        }
        let source = parse("a?passphrase-file=b").ok().unwrap();
        assert_eq!(
            source
                .based_on(Path::new("/etc"))
                .unwrap()
                .secret()
                .unwrap(),
            Some(SecretSource::File(PathBuf::from("/etc/b")))
        );
    }

    #[test]
    fn secret_attributes() {
        let secret = |text: &str| parse(text).ok().unwrap().secret().unwrap();
        assert_eq!(secret("key"), None);
        assert_eq!(
            secret("key?passphrase-command=pass%20a%26b"),
            Some(SecretSource::Command("pass a&b".into()))
        );
        assert_eq!(secret("key?passphrase-fd=3"), Some(SecretSource::Fd(3)));
        assert_eq!(
            secret("key?passphrase-file="),
            Some(SecretSource::File(PathBuf::new()))
        );
    }

    #[test]
    fn secrets_are_redacted() {
        for (text, shown) in [
            (
                "pkcs11:object=O?pin-value=1&module-path=/m",
                "pkcs11:object=O?pin-value=…&module-path=/m",
            ),
            (
                "pkcs11:object=O?module-path=/m&pin-value=1?2;3",
                "pkcs11:object=O?module-path=/m&pin-value=…",
            ),
            ("pkcs11:pinvalue=1;object=O", "pkcs11:pinvalue=…;object=O"),
            (
                "PKCS11:object=O?PIN-VALUE=1&pin-value=2",
                "PKCS11:object=O?PIN-VALUE=…&pin-value=…",
            ),
            (
                "pkcs11:object=O?pin-value=1&2",
                "pkcs11:object=O?pin-value=…&…",
            ),
            (
                "pkcs11:object=O?pin-value=1&77=3&module-path=/m",
                "pkcs11:object=O?pin-value=…&…&module-path=/m",
            ),
            (
                "pkcs11:object=O?pin=1&&pin-env=P",
                "pkcs11:object=O?pin=…&pin-env=P",
            ),
            ("k.pem?passphrase=1", "k.pem?passphrase=…"),
            ("k.pem?passphrase-env=P", "k.pem?passphrase-env=P"),
            (
                "awskms:///alias/a?region=r&secret=1",
                "awskms:///alias/a?region=r&secret=…",
            ),
            ("nosuch:x?region=1", "nosuch:x?region=…"),
            (
                "k.pem?passphrase-command=pass a&b=c&passphrase-env=P",
                "k.pem?passphrase-command=…&…&passphrase-env=P",
            ),
            (
                "pkcs11:object=O?pin-source=|cat p&module-path=/m",
                "pkcs11:object=O?pin-source=…&module-path=/m",
            ),
            (
                "pkcs11:object=O?pin-source=%7Ccat%20p",
                "pkcs11:object=O?pin-source=…",
            ),
            (
                "pkcs11:object=O?pin-source=/p",
                "pkcs11:object=O?pin-source=/p",
            ),
            (
                "pkcs11:token=T;object=o&pin-value=1234",
                "pkcs11:token=T;object=o&pin-value=…",
            ),
            (
                "pkcs11:object=o?module-path=/m?pin-value=1234",
                "pkcs11:object=o?module-path=/m?pin-value=…",
            ),
            (
                " pkcs11:object=o;pin-value=12 34",
                " pkcs11:object=o;pin-value=…",
            ),
            (
                "pkcs11:object=o ?pin-value=1",
                "pkcs11:object=o ?pin-value=…",
            ),
            (
                "pkcs11:object=o? pin-value=1",
                "pkcs11:object=o? pin-value=…",
            ),
            (
                "pkcs11:object=o;pin%2Dvalue=1",
                "pkcs11:object=o;pin%2Dvalue=…",
            ),
            ("pkcs11:object=o;pin-value:1", "pkcs11:object=o;pin-value:…"),
            (
                "pkcs11:object=o%3Fpin-value%3D1",
                "pkcs11:object=o%3Fpin-value%3D…",
            ),
            ("pkcs:object=o;pin-value=1", "pkcs:object=o;pin-value=…"),
            ("pkcs11.object=o;pin-value=1", "pkcs11.object=o;pin-value=…"),
            ("pin-value=1", "pin-value=…"),
            ("k.pem;passphrase=1", "k.pem;passphrase=…"),
            ("k.pem?pass=1", "k.pem?pass=…"),
            (
                "awskms:///alias/a?endpoint-url=http://u:p@h:1&region=r",
                "awskms:///alias/a?endpoint-url=http://…@h:1&region=r",
            ),
            ("https://u:p@h/key", "https://…@h/key"),
            ("pin=value.pem", "pin=value.pem"),
        ] {
            assert_eq!(redacted(text), shown);
        }
        let source = parse("pkcs11:object=O?pin-value=1").ok().unwrap();
        assert_eq!(source.text(), "pkcs11:object=O?pin-value=…");
        assert_eq!(source.attribute("pin-value"), Some("1"));
        for wrong in [
            "pkcs11:object=O?pin-value=77%",
            "nosuch:x?pin-value=77",
            "k?pin-value=77",
        ] {
            let error = error(wrong);
            assert!(!error.contains("77"), "{error}");
        }
    }

    #[test]
    fn reusable_source_omits_hidden_attributes() {
        for (text, reusable) in [
            ("k.pem", "k.pem"),
            ("k.pem?passphrase-command=pass k", "k.pem"),
            ("k.pem?passphrase-env=P", "k.pem?passphrase-env=P"),
            (
                "openssl:k.pem?passphrase-command=a&provider=p",
                "openssl:k.pem?provider=p",
            ),
        ] {
            assert_eq!(parse(text).ok().unwrap().reusable(), reusable);
        }
    }

    #[test]
    fn named_secrets_of_valid_and_invalid_sources() {
        let env = |name: &str| SecretSource::Env(name.to_owned());
        for (text, named) in [
            ("k.pem", vec![]),
            ("k.pem?passphrase-env=A", vec![env("A")]),
            (
                "--key=k.pem?passphrase-env=A&passphrase-fd=7",
                vec![env("A"), SecretSource::Fd(7)],
            ),
            (
                "k?PASSPHRASE-ENV=A&passphrase-env=B",
                vec![env("A"), env("B")],
            ),
            ("k?passphrase%2Denv=A%5FB", vec![env("A_B")]),
            ("nosuch:x;pin-env=A? pin-env=B", vec![env("A"), env("B")]),
            (
                "k?passphrase-fd=x&pin-fd=3&pin-file=p",
                vec![SecretSource::Fd(3)],
            ),
            ("k?region-env=A&env=B", vec![]),
        ] {
            assert_eq!(named_secrets(text), named, "{text}");
        }
    }

    #[test]
    fn parse_errors() {
        for (text, message) in [
            (
                "awskm:///x",
                "\"awskm:///x\" is not a key source: unknown scheme \"awskm\"",
            ),
            ("", "\"\" is not a key source: empty"),
            (
                "k?x=1",
                "\"k?x=…\" is not a key source: unknown attribute \"x\"",
            ),
            (
                "k?passphrase-env",
                "\"k?…\" is not a key source: an attribute without a value",
            ),
            (
                "k?passphrase-fd=x",
                "\"k?passphrase-fd=x\" is not a key source: passphrase-fd is not a file descriptor",
            ),
            (
                "k?passphrase-fd=1&passphrase-env=X",
                "\"k?passphrase-fd=1&passphrase-env=X\" is not a key source: more than one source for the passphrase",
            ),
            (
                "k?passphrase-fd=1&passphrase-fd=1",
                "\"k?passphrase-fd=1&passphrase-fd=1\" is not a key source: attribute \"passphrase-fd\" is given twice",
            ),
            (
                "file:%zz",
                "\"file:%zz\" is not a key source: a `%` without two hex digits after it (write `%25`)",
            ),
            (
                "file:a%00b",
                "\"file:a%00b\" is not a key source: contains a NUL byte",
            ),
            (
                "-?passphrase-fd=0",
                "\"-?passphrase-fd=0\" is not a key source: only one of the key and its passphrase may read stdin",
            ),
            (
                "file:?passphrase-fd=1",
                "\"file:?passphrase-fd=1\" is not a key source: nothing before the attributes",
            ),
        ] {
            let error = error(text);
            assert_eq!(error.split(" / ").next(), Some(message));
        }
        assert!(error("k?pasphrase-env=X").contains("did you mean \"passphrase-env\"?"));
    }
}

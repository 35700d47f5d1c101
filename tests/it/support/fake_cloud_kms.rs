//! A fake Google Cloud KMS: the REST calls that `gcloud kms` makes for asymmetric signing, and the
//! one that it makes to become somebody else.
//!
//! Names, states, algorithms and messages are those of the Cloud KMS API, version 1. Every
//! signature comes with the CRC32C that gcloud checks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use serde_json::{Value, json};

use super::{
    fake_kms::sign_digest,
    http::{Reply, Request, Server},
    qkey::{BOB, CAROL},
};

/// The key ring that everything is in.
pub const RING: &str = "projects/p/locations/europe-west1/keyRings/r";

/// A running fake Cloud KMS with no key.
pub struct FakeCloudKms {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By the full name of a version.
    versions: BTreeMap<String, Version>,
    fault: Option<(&'static str, Fault)>,
    calls: Vec<Call>,
}

/// What it holds of a version.
#[derive(Clone)]
pub struct Version {
    pub state: &'static str,
    pub algorithm: &'static str,
    /// PKCS#8 PEM of what signs.
    pub private_key: &'static str,
    pub public_pem: String,
}

/// What calls get whose path holds a text.
pub enum Fault {
    /// HTTP status, canonical code and message.
    Error(u16, &'static str, &'static str),
    /// These members over those of the answer.
    Members(Value),
}

/// One call as it came in.
pub struct Call {
    pub method: String,
    pub path: String,
    pub body: Value,
    pub authorization: Option<String>,
}

impl FakeCloudKms {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let served = state.clone();
        let server = Server::start(move |request| serve(&mut lock(&served), request));
        Self { server, state }
    }

    /// For `CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS`.
    pub fn url(&self) -> String {
        format!("{}/", self.server.url())
    }

    /// Adds a version, as in `add("bob", 1, bob())`.
    pub fn add(&self, key: &str, number: u32, version: Version) {
        let name = format!("{RING}/cryptoKeys/{key}/cryptoKeyVersions/{number}");
        self.state().versions.insert(name, version);
    }

    /// Makes calls fail whose path holds a text.
    pub fn fault(&self, text: &'static str, fault: Fault) {
        self.state().fault = Some((text, fault));
    }

    /// The calls since the last time.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An enabled version that is bob's key.
pub fn bob() -> Version {
    version(BOB)
}

fn version(private_key: &'static str) -> Version {
    let signing_key: p256::ecdsa::SigningKey =
        p256::pkcs8::DecodePrivateKey::from_pkcs8_pem(private_key).expect("a private key");
    let public_key = qkey::public_key::PublicKey::from(*signing_key.verifying_key());
    Version {
        state: "ENABLED",
        algorithm: "EC_SIGN_P256_SHA256",
        private_key,
        public_pem: public_key.to_pem(),
    }
}

fn serve(state: &mut State, request: &Request) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let name = path.trim_start_matches("/v1/");
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    state.calls.push(Call {
        method: request.method.clone(),
        path: request.path.clone(),
        body: body.clone(),
        authorization: request.headers.get("authorization").cloned(),
    });
    let mut changes = json!({});
    if let Some((text, fault)) = &mut state.fault
        && request.path.contains(*text)
    {
        match fault {
            Fault::Error(status, code, message) => return error(*status, code, message),
            Fault::Members(members) => changes = members.clone(),
        }
    }
    let answer = if let Some(name) = name.strip_suffix("/publicKey") {
        usable(state, name).map(|version| {
            json!({ "name": name, "pem": version.public_pem, "algorithm": version.algorithm })
        })
    } else if let Some(name) = name.strip_suffix(":asymmetricSign") {
        usable(state, name).and_then(|version| sign(name, version, &body))
    } else if let Some(key) = name.strip_suffix("/cryptoKeyVersions") {
        list(state, key)
    } else if name.ends_with(":generateAccessToken") {
        // IAM Service Account Credentials API, for impersonation.
        Ok(json!({ "accessToken": "of-another", "expireTime": "2099-01-01T00:00:00Z" }))
    } else {
        create(state, &request.path, &body)
    };
    match answer {
        Ok(mut answer) => {
            for (member, value) in changes.as_object().expect("an object") {
                answer[member] = value.clone();
            }
            Reply::Json(200, answer.to_string())
        }
        Err(reply) => reply,
    }
}

fn usable<'s>(state: &'s State, name: &str) -> Result<&'s Version, Reply> {
    match state.versions.get(name) {
        Some(version) if version.state == "ENABLED" => Ok(version),
        Some(version) => Err(not_enabled(name, version.state)),
        None => Err(not_found("CryptoKeyVersion", name)),
    }
}

fn sign(name: &str, version: &Version, body: &Value) -> Result<Value, Reply> {
    let digest = BASE64_URL_SAFE.decode(body["digest"]["sha256"].as_str().unwrap_or_default());
    let digest = digest.unwrap_or_default();
    if body["digestCrc32c"] != json!(crc32c(&digest).to_string()) || digest.len() != 32 {
        return Err(error(400, "INVALID_ARGUMENT", "The digest is damaged."));
    }
    let signature = sign_digest(version.private_key, &digest).to_der();
    Ok(json!({
        "name": name,
        "signature": BASE64_STANDARD.encode(signature.as_bytes()),
        "signatureCrc32c": crc32c(signature.as_bytes()).to_string(),
        "verifiedDigestCrc32c": true,
    }))
}

fn list(state: &State, key: &str) -> Result<Value, Reply> {
    let prefix = format!("{key}/cryptoKeyVersions/");
    let versions: Vec<Value> = state
        .versions
        .iter()
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(name, version)| {
            json!({ "name": name, "state": version.state, "algorithm": version.algorithm })
        })
        .collect();
    if versions.is_empty() {
        Err(not_found("CryptoKey", key))
    } else {
        Ok(json!({ "cryptoKeyVersions": versions }))
    }
}

fn create(state: &mut State, path: &str, body: &Value) -> Result<Value, Reply> {
    let id = path.split("cryptoKeyId=").nth(1).unwrap_or_default();
    let key = format!(
        "{RING}/cryptoKeys/{}",
        id.split('&').next().unwrap_or_default()
    );
    if list(state, &key).is_ok() {
        let message = format!("CryptoKey {key} already exists.");
        return Err(error(409, "ALREADY_EXISTS", &message));
    }
    let first = format!("{key}/cryptoKeyVersions/1");
    state.versions.insert(first, version(CAROL));
    Ok(json!({ "name": key, "purpose": body["purpose"] }))
}

fn not_found(what: &str, name: &str) -> Reply {
    error(404, "NOT_FOUND", &format!("{what} {name} not found."))
}

fn not_enabled(name: &str, state: &str) -> Reply {
    let name = name.trim_end_matches("/publicKey");
    let message = format!("{name} is not enabled, current state is: {state}.");
    error(400, "FAILED_PRECONDITION", &message)
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({ "code": status, "message": message, "status": code });
    Reply::Json(status, json!({ "error": error }).to_string())
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (REVERSED_POLYNOMIAL * (crc & 1))
        })
    })
}

//! A fake AWS KMS, for what moto gets wrong and for failures; moto stands for the rest.
//!
//! It speaks AWS's JSON 1.1 protocol, and does as the API reference says: `Sign` takes a message of
//! at most 4,096 bytes, or a digest that it does not hash again; a disabled key neither signs nor
//! shows its public half.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use p256::{
    ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner},
    pkcs8::DecodePrivateKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    http::{Reply, Request, Server},
    qkey::{ALICE, BOB, BOB_PUBLIC, CAROL, CAROL_PUBLIC},
};

/// The ARNs of what it holds begin like this.
pub const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:";

/// The id of the key that `CreateKey` makes.
pub const NEW_ID: &str = "0ca0100c-0000-4000-8000-000000000003";

/// A running fake KMS with two keys: `alias/bob` and `alias/carol`.
pub struct FakeKms {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By alias or id: what `GetPublicKey` answers.
    keys: HashMap<String, Value>,
    faults: HashMap<String, (usize, Fault)>,
    calls: Vec<Call>,
}

/// What a call gets instead of an answer.
pub enum Fault {
    /// An error code and its message.
    Error(&'static str, &'static str),
    Hang,
}

/// One call as it came in.
pub struct Call {
    pub operation: String,
    pub input: Value,
    /// It names the access key and the region.
    pub authorization: String,
}

impl FakeKms {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let served = state.clone();
        let server = Server::start(move |request| serve(&served, request));
        let fake = Self { server, state };
        fake.add_key("alias/bob", BOB_PUBLIC, json!({}));
        fake.add_key("alias/carol", CAROL_PUBLIC, json!({}));
        fake
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Adds a key under an alias or id; `changes` go over what `GetPublicKey` answers, where null
    /// leaves a member out.
    pub fn add_key(&self, name: &str, public_key: &str, changes: Value) {
        let mut key = json!({
            "KeyId": format!("{ARN}key/{name}"),
            "PublicKey": public_key,
            "KeySpec": "ECC_NIST_P256",
            "CustomerMasterKeySpec": "ECC_NIST_P256",
            "KeyUsage": "SIGN_VERIFY",
            "SigningAlgorithms": ["ECDSA_SHA_256"],
        });
        for (member, value) in changes.as_object().expect("an object") {
            key[member] = value.clone();
        }
        let members = key.as_object_mut().expect("an object");
        members.retain(|_, value| !value.is_null());
        self.state().keys.insert(name.to_owned(), key);
    }

    /// Makes an operation fail from now on.
    pub fn fault(&self, operation: &str, fault: Fault) {
        self.fault_times(operation, usize::MAX, fault);
    }

    /// Makes the next calls of an operation fail.
    pub fn fault_times(&self, operation: &str, times: usize, fault: Fault) {
        let faults = &mut self.state().faults;
        faults.insert(operation.to_owned(), (times, fault));
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

/// A signature over a digest by a private key in PEM.
pub fn sign_digest(private_key: &str, digest: &[u8]) -> Signature {
    SigningKey::from_pkcs8_pem(private_key)
        .expect("a private key")
        .sign_prehash(digest)
        .expect("a digest")
}

fn serve(state: &Mutex<State>, request: &Request) -> Reply {
    let target = &request.headers["x-amz-target"];
    let operation = target.trim_start_matches("TrentService.").to_owned();
    let input: Value = serde_json::from_slice(&request.body).expect("JSON");
    let mut state = lock(state);
    state.calls.push(Call {
        operation: operation.clone(),
        input: input.clone(),
        authorization: request.headers["authorization"].clone(),
    });
    if let Some((times, fault)) = state.faults.get_mut(&operation)
        && *times > 0
    {
        *times -= 1;
        return match fault {
            Fault::Error(code, message) => error(code, message),
            Fault::Hang => Reply::Hang,
        };
    }
    match operation.as_str() {
        "GetPublicKey" => with_key(&state, &input, |key| Ok(key.clone())),
        "DescribeKey" => with_key(&state, &input, |key| Ok(json!({ "KeyMetadata": key }))),
        "Sign" => with_key(&state, &input, |_| sign(&input)),
        "CreateKey" => json_reply(&json!({
            "KeyMetadata": { "KeyId": NEW_ID, "Arn": format!("{ARN}key/{NEW_ID}") }
        })),
        "CreateAlias" => Reply::Json(200, String::new()),
        other => error("UnknownOperationException", other),
    }
}

/// The name under which a key was added, from that or from its ARN.
fn key_name(input: &Value) -> &str {
    let id = input["KeyId"].as_str().unwrap_or_default();
    id.rsplit_once(":key/").map_or(id, |(_, name)| name)
}

fn with_key(
    state: &State,
    input: &Value,
    answer: impl FnOnce(&Value) -> Result<Value, Reply>,
) -> Reply {
    let name = key_name(input);
    match state.keys.get(name).map(answer) {
        Some(Ok(value)) => json_reply(&value),
        Some(Err(reply)) => reply,
        None => error(
            "NotFoundException",
            &format!("Key '{ARN}key/{name}' does not exist"),
        ),
    }
}

fn sign(input: &Value) -> Result<Value, Reply> {
    let message = BASE64.decode(input["Message"].as_str().unwrap_or_default());
    let message = message.map_err(|_| error("SerializationException", "Message"))?;
    let digest = match input["MessageType"].as_str() {
        Some("RAW") if message.len() <= 4096 => Sha256::digest(&message).to_vec(),
        Some("DIGEST") if message.len() == 32 => message,
        _ => return Err(error("ValidationException", "the length of Message")),
    };
    let key = match key_name(input) {
        "alias/carol" => CAROL,
        "alias/alice" => ALICE,
        _ => BOB,
    };
    Ok(json!({
        "KeyId": input["KeyId"],
        "Signature": BASE64.encode(sign_digest(key, &digest).to_der().as_bytes()),
        "SigningAlgorithm": input["SigningAlgorithm"],
    }))
}

fn json_reply(value: &Value) -> Reply {
    Reply::Json(200, value.to_string())
}

fn error(code: &str, message: &str) -> Reply {
    Reply::Json(
        400,
        json!({ "__type": code, "message": message }).to_string(),
    )
}

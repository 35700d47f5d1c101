//! Every test that runs `qkey` as a user would, in one program: one link, one set of servers.

#![allow(
    unsafe_code,
    reason = "fork(2) and resource limits of the programs under test"
)]

mod add;
mod aws;
mod azure;
mod config;
mod credentials;
mod gcp;
mod generate;
mod hostile_text;
mod interrupts;
mod key_containers;
mod key_sources;
mod keyfile;
mod keys;
mod lock;
mod memory;
mod mock_parity;
mod node_socket;
mod openssl;
mod passphrases;
mod pkcs11;
mod plugin;
mod proxies;
mod pubkey;
mod qq_failures;
mod refused_secrets;
mod replace;
mod rest;
mod rest_failures;
mod rotate;
mod schema;
mod secrets_in_memory;
mod sign;
mod signers;
mod ssh_agent;
mod structure;
mod support;
mod terminal;
mod tls;
mod transports;
mod unlock;
mod usage;
mod vault;
mod verify;

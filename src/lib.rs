//! `qkey` proves to a Qumulo cluster that its user holds the private half of a lock key, wherever
//! that key lives.
//!
//! A *ceremony* ([`ceremony`]) fetches a challenge from a [`cluster`], has it signed by a
//! [`signer`], checks the signature itself, submits it, and says what the cluster now holds.

#![deny(unsafe_code)]

pub mod ceremony;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod encoding;
pub mod error;
pub mod fleet;
pub mod folders;
pub mod format;
mod http;
pub mod input;
pub mod interrupt;
pub mod keyfile;
pub mod memory;
pub mod output;
pub mod parallel;
pub mod private_file;
pub mod public_key;
pub mod reason;
pub mod redact;
pub mod report;
pub mod secret;
pub mod settings;
pub mod signature;
pub mod signer;
pub mod subprocess;
pub mod suggest;
pub mod terminal;
pub mod text;
pub mod wipe;

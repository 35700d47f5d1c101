//! `qkey` proves to a Qumulo cluster that its user has the private half of a lock key, wherever that
//! key lives.
//!
//! A *ceremony* ([`ceremony`]) fetches a challenge from a [`cluster`], has it signed by a
//! [`signer`], verifies the signature itself, submits it, and reports what the cluster now stores.

mod ceremony;
mod cli;
mod cluster;
mod config;
mod encoding;
mod error;
mod fleet;
mod folders;
mod format;
mod http;
mod input;
mod interrupt;
pub mod keyfile;
mod memory;
mod output;
mod parallel;
mod private_file;
pub mod public_key;
mod reason;
mod redact;
mod registry;
mod report;
mod secret;
mod settings;
mod signature;
mod signer;
mod subprocess;
mod suggest;
mod terminal;
mod text;
mod wipe;

pub use self::{cli::main, report::schema, signer::registry::KINDS, wipe::Allocator};

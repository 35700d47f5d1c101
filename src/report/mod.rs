//! The JSON that `qkey` prints. Field names, their order and their presence are a contract with the
//! scripts that read it.

pub mod ceremony;

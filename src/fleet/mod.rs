//! Changes of many snapshots in one run.

mod ledger;
pub mod run;

//! What the commands that sign a cluster's challenge share.

use clap::Args;

use crate::text::quoted;

/// How often a stale challenge is signed again.
#[derive(Args)]
pub struct Attempts {
    /// Maximum number of submissions if the challenge goes stale
    #[arg(id = "attempts", long = "attempts", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub number: u32,
}

/// What a dry run has signed, on a line of its own.
pub fn signed(challenge: Option<&str>) -> String {
    challenge.map_or_else(String::new, |text| {
        format!("\n  challenge: {}", quoted(text))
    })
}

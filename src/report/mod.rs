//! What `--output json` prints: one struct per object. Field names are a contract; the schema in
//! `docs/output.schema.json` is generated from these structs.

pub mod ceremony;
pub mod key;

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Kind;

/// An error on stderr.
#[derive(Serialize, JsonSchema)]
pub struct ErrorReport {
    /// The error.
    pub error: ErrorFields,
}

/// An error, or the error of one item among several.
#[derive(Serialize, JsonSchema)]
pub struct ErrorFields {
    /// The name that goes with the exit code, such as `usage`.
    #[schemars(with = "String")]
    pub kind: Kind,
    /// What failed on what, in one line.
    pub message: String,
    /// What caused it, nearest first.
    pub causes: Vec<String>,
    /// The next step.
    pub hint: Option<String>,
    /// The exit code of the process.
    pub exit_code: u8,
}

/// A note on stderr.
#[derive(Serialize, JsonSchema)]
pub struct NoteReport<'a> {
    /// The note.
    pub log: Note<'a>,
}

/// A warning, or with `-v` a step.
#[derive(Serialize, JsonSchema)]
pub struct Note<'a> {
    /// `warning`, `info` or `debug`.
    pub level: String,
    /// One line.
    pub message: &'a str,
}

/// The JSON Schema (draft 2020-12) of everything that `--output json` prints: each object matches one
/// of the definitions.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let mut objects = vec![
        generator.subschema_for::<ErrorReport>(),
        generator.subschema_for::<NoteReport<'_>>(),
    ];
    objects.extend(ceremony::schemas(&mut generator));
    objects.extend(key::schemas(&mut generator));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Output of qkey --output json",
        "anyOf": objects.iter().map(Schema::as_value).collect::<Vec<_>>(),
        "$defs": generator.take_definitions(true),
    })
}

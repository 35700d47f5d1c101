//! The JSON schema in `docs/`, and real output checked against it.

use serde_json::Value;
use snapbox::{Data, assert_data_eq};

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, Qkey},
    shell,
};

#[test]
fn schema_in_docs_is_up_to_date() {
    let schema = serde_json::to_string_pretty(&qkey::schema()).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/output.schema.json");
    assert_data_eq!(schema, Data::read_from(path.as_ref(), None).raw());
}

#[test]
fn real_output_matches_schema() {
    let mock = Mock::new();
    mock.add_key("lock", "", ALICE_PUBLIC);
    mock.set_snapshot_field(1, "lock_key", "1");
    let qkey = Qkey::with_mock(&mock);
    let schema = qkey::schema();
    for line in [
        "qkey keys list",
        "qkey keys show 1",
        "qkey keys usage",
        "qkey pubkey alice.pem",
        "qkey sign --key alice.pem challenge",
        "qkey verify --key alice.pem --signature \"$(qkey --output text sign --key alice.pem x)\" x",
        "qkey generate new.pem",
        "qkey config show",
        "qkey config init --file new.toml",
        "qkey keys show 2",
        "qkey --no-such-flag",
        "qkey keys list -v",
    ] {
        let run = shell::run(&qkey, &format!("export QKEY_OUTPUT=json; {line}"));
        let output = format!("{}{}", run.stdout, run.stderr);
        assert!(!output.is_empty(), "{line}");
        for object in output.lines() {
            let object: Value = serde_json::from_str(object).expect(line);
            let matches = matching(&schema, &object);
            assert_eq!(matches, 1, "{line}: {object:#}");
        }
    }
}

/// How many of the schema's objects match.
fn matching(schema: &Value, object: &Value) -> usize {
    let choices = schema["anyOf"].as_array().expect("anyOf");
    let matches = choices
        .iter()
        .filter(|choice| accepts(schema, choice, object));
    matches.count()
}

/// Whether `schema`, a part of `root`, accepts `value`, with no field that is not declared.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        let target = root.pointer(pointer).expect(reference);
        return accepts(root, target, value);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().any(|choice| accepts(root, choice, value));
    }
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_of_type = match &schema["type"] {
        Value::Array(types) => types.contains(&name.into()),
        one => one == name,
    };
    if !is_of_type {
        return false;
    }
    match value {
        Value::Array(items) => items
            .iter()
            .all(|item| accepts(root, &schema["items"], item)),
        Value::Object(fields) => {
            let declared = schema["properties"].as_object();
            let Some(declared) = declared else {
                return fields
                    .values()
                    .all(|field| accepts(root, &schema["additionalProperties"], field));
            };
            let required = schema["required"].as_array().into_iter().flatten();
            let mut required = required.filter_map(Value::as_str);
            required.all(|name| fields.contains_key(name))
                && fields.iter().all(|(name, field)| {
                    let declared = declared.get(name);
                    declared.is_some_and(|declared| accepts(root, declared, field))
                })
        }
        _ => true,
    }
}

//! The schema says what the reader says, as far as a schema can.

use serde_json::{Map, Value};

use super::*;

/// What is wrong with a value, by as much of JSON Schema as ours has; regular expressions are looked at elsewhere.
fn wrong(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let known = [
        "$schema",
        "$ref",
        "title",
        "description",
        "type",
        "enum",
        "anyOf",
        "properties",
        "additionalProperties",
        "propertyNames",
        "required",
        "items",
        "minItems",
        "minProperties",
        "minimum",
        "maximum",
        "pattern",
        "definitions",
    ];
    let schema = schema.as_object().unwrap();
    for word in schema.keys() {
        assert!(known.contains(&word.as_str()), "{place}: this test does not know `{word}`");
    }
    let mut errors = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            errors.push(format!("{place}: {what}"));
        }
    };
    if let Some(types) = schema.get("type") {
        let is = |name: &Value| match name.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            other => panic!("{other}"),
        };
        must(types.as_array().map_or_else(|| is(types), |types| types.iter().any(is)), "the wrong type");
    }
    if let Some(words) = schema.get("enum") {
        must(words.as_array().unwrap().contains(value), "none of the words");
    }
    let at_least =
        |key: &str, count: usize| schema.get(key).is_none_or(|least| count as u64 >= least.as_u64().unwrap());
    match value {
        Value::Array(list) => must(at_least("minItems", list.len()), "too few"),
        Value::Object(table) => {
            must(at_least("minProperties", table.len()), "too few");
            for key in schema.get("required").into_iter().flat_map(|keys| keys.as_array().unwrap()) {
                must(table.contains_key(key.as_str().unwrap()), "not all that is required");
            }
        }
        Value::Number(number) => {
            let bound = |key: &str| schema.get(key).map(|bound| bound.as_f64().unwrap());
            let number = number.as_f64().unwrap();
            must(bound("minimum").is_none_or(|least| number >= least), "too small");
            must(bound("maximum").is_none_or(|most| number <= most), "too large");
        }
        _ => {}
    }
    if let Some(name) = schema.get("$ref") {
        errors.extend(wrong(definition(name.as_str().unwrap()), value, place));
    }
    if let Some(ways) = schema.get("anyOf") {
        let tried: Vec<Vec<String>> = ways.as_array().unwrap().iter().map(|way| wrong(way, value, place)).collect();
        if tried.iter().all(|errors| !errors.is_empty()) {
            errors.extend(tried.concat());
        }
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        errors.extend(list.iter().flat_map(|value| wrong(items, value, place)));
    }
    if let Some(table) = value.as_object() {
        let none = Map::new();
        let properties = schema.get("properties").map_or(&none, |properties| properties.as_object().unwrap());
        for (key, value) in table {
            let place = format!("{place}.{key}");
            match (properties.get(key), schema.get("additionalProperties")) {
                (None, Some(Value::Bool(false))) => errors.push(format!("{place}: unknown")),
                (Some(schema), _) | (None, Some(schema)) => errors.extend(wrong(schema, value, &place)),
                (None, None) => {}
            }
        }
    }
    errors
}

fn schema() -> &'static Value {
    static SCHEMA: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| serde_json::from_str(super::super::SCHEMA).unwrap());
    &SCHEMA
}

fn definition(name: &str) -> &'static Value {
    schema().pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{name}"))
}

/// What the schema says of a file.
fn judged(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    wrong(schema(), &serde_json::to_value(table).unwrap(), "")
}

fn keys(table: &str) -> Vec<&'static str> {
    let properties = definition(table)["properties"].as_object().unwrap();
    let mut keys: Vec<&str> = properties.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn every_key_is_in_the_schema_and_no_other() {
    let mut known = layer::KEYS.to_vec();
    known.sort_unstable();
    assert_eq!(keys("#/definitions/host"), known);
    known.retain(|key| !["address", "new_address"].contains(key));
    assert_eq!(keys("#/definitions/defaults"), known);
    let mut clocks = Deadlines::NAMES.to_vec();
    clocks.sort_unstable();
    assert_eq!(keys("#/definitions/key_deadlines"), clocks);
    for become_root in Become::ALL {
        assert!(
            definition("#/definitions/key_become")["enum"].as_array().unwrap().contains(&become_root.name().into())
        );
    }
}

#[test]
fn what_is_right_is_right_by_the_schema_too() {
    let documents = include_str!("../../../../docs/HOSTS.md").split("```toml").skip(1);
    let mut seen = 0;
    for block in documents.map(|rest| rest.split("```").next().unwrap()) {
        assert_eq!(judged(block), [""; 0], "{block}");
        seen += 1;
    }
    assert!(seen > 6);
}

#[test]
fn what_is_wrong_in_kind_is_wrong_by_the_schema_too() {
    let with = |lines: &str| format!("[hosts.a]\npayload = \"p\"\ndisk = \"/dev/vda\"\n{lines}\n");
    assert_eq!(judged(&with("")), [""; 0]);
    for (lines, expected) in [
        ("dsik = \"/dev/vdb\"", ".hosts.a.dsik: unknown"),
        ("port = \"22\"", ".hosts.a.port: the wrong type"),
        ("port = 70000", ".hosts.a.port: too large"),
        ("become = \"root\"", ".hosts.a.become: none of the words"),
        ("accept_new = 1", ".hosts.a.accept_new: the wrong type"),
        ("deadlines = { biuld = \"1h\" }", ".hosts.a.deadlines.biuld: unknown"),
        ("disks = [{}]", ".hosts.a.disks: too few"),
        ("base = \"somewhere\"", ".hosts.a.base: none of the words"),
        ("needs = [1]", ".hosts.a.needs: the wrong type"),
        ("vars = { a = 1.5 }", ".hosts.a.vars.a: the wrong type"),
        ("secrets = { a = 1 }", ".hosts.a.secrets.a: the wrong type"),
    ] {
        let text = with(lines);
        assert!(judged(&text).iter().any(|error| error == expected), "{lines}: {:?}", judged(&text));
        assert!(read(&text).is_err(), "{lines}");
    }
    assert_eq!(judged("[defaults]\naddress = \"a\"\n[hosts.a]\n"), [".defaults.address: unknown"]);
    let neither = ": not all that is required";
    assert_eq!(judged("[defaults]\n"), [neither, neither]);
    assert_eq!(judged("include = [\"more.toml\"]\n"), [""; 0]);
    assert_eq!(judged("include = \"more.toml\"\n"), [".include: the wrong type"]);
}

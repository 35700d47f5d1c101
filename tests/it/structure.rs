//! The modules under `src` import each other without circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use regex::Regex;

/// The one import that may close a cycle: lack of memory is reported from wherever it strikes.
const EXEMPT: &str = "crate::memory";

/// Flattens a `use` tree: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn flatten(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0;
    let items = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for item in items.map(str::trim) {
        match item.split_once('{') {
            Some((head, rest)) => {
                flatten(&format!("{prefix}{head}"), &rest[..rest.len() - 1], paths);
            }
            None => paths.push(format!("{prefix}{item}")),
        }
    }
}

fn sources(folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let inner = format!("{module}::{name}");
        match (path.is_dir(), name) {
            (true, _) => sources(&path, &inner, found),
            (_, "main" | "lib" | "tests" | "fakes" | "encodings") => {}
            (_, "mod") => drop(found.insert(module.into(), fs::read_to_string(path).unwrap())),
            _ => drop(found.insert(inner, fs::read_to_string(path).unwrap())),
        }
    }
}

#[test]
fn modules_have_no_import_cycles() {
    let mut modules = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root, "crate", &mut modules);
    let import =
        Regex::new(r"(?ms)^(?:pub(?:\([a-z]+\))? )?use ((?:crate|super|self)::.*?);").unwrap();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, text) in &modules {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for found in import.captures_iter(code) {
            let mut paths = Vec::new();
            flatten("", &found[1].replace('\n', " "), &mut paths);
            for path in paths {
                let parent = module
                    .rsplit_once("::")
                    .map_or("crate", |(parent, _)| parent);
                let path = path.replacen("super::", &format!("{parent}::"), 1);
                let path = path.replacen("self::", &format!("{module}::"), 1);
                let prefixes = path.match_indices("::").map(|(end, _)| &path[..end]);
                let all = prefixes.chain([path.as_str()]);
                let Some((other, _)) = all.filter_map(|p| modules.get_key_value(p)).last() else {
                    continue;
                };
                // A parent and its children count as one module.
                let is_kin = module.starts_with(other) || other.starts_with(module);
                if !is_kin && module != EXEMPT {
                    imports.entry(module).or_default().insert(other);
                }
            }
        }
    }
    // A module whose imports are all out of the graph is in no cycle.
    loop {
        let left: BTreeSet<&str> = imports.keys().copied().collect();
        imports.retain(|_, others| !others.is_disjoint(&left));
        if imports.len() == left.len() {
            break;
        }
    }
    assert!(imports.is_empty(), "cycles among, or above: {imports:#?}");
}

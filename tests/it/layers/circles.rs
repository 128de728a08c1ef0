//! Owns the search for circles: modules of one folder that import each other, directly or indirectly.
//!
//! A folder counts as one module among its siblings. Parent and child may import each other. What only
//! tests import does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{code_of, paths_of, without_tests};

/// A module below the crate, name by name.
type Module = Vec<String>;

/// The circles among the files (path below `src/`, text): of each the paths of its modules, sorted.
pub(super) fn circles_of(files: &[(String, String)]) -> Vec<Vec<String>> {
    let shipped: BTreeMap<Module, &str> = files
        .iter()
        .filter(|(path, _)| !super::is_test(path) && path != "main.rs")
        .map(|(path, text)| (module_of(path), text.as_str()))
        .collect();
    let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in &shipped {
        for path in paths_of(&without_tests(&code_of(text))) {
            let Some(imported) = resolved(module, &path, &shipped) else {
                continue;
            };
            if let Some((ours, theirs)) = siblings(module, &imported) {
                imports.entry(ours).or_default().insert(theirs);
            }
        }
    }
    let reach: BTreeMap<_, _> = imports
        .keys()
        .map(|module| (module, reached(module, &imports)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, reached) in &reach {
        let back = |other: &&Module| {
            let theirs = reach.get(*other);
            theirs.is_some_and(|theirs| theirs.contains(*module))
        };
        let circle: Vec<String> = reached
            .iter()
            .filter(back)
            .map(|other| other.join("/"))
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// `mail/reply/cut.rs` is `mail::reply::cut`, `mail/reply/mod.rs` is `mail::reply`.
fn module_of(path: &str) -> Module {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let names = path
        .split('/')
        .filter(|name| !matches!(*name, "mod" | "lib"));
    names.map(str::to_owned).collect()
}

/// The module that a path used in `module` leads to, if it is one of ours.
fn resolved(module: &Module, path: &[String], all: &BTreeMap<Module, &str>) -> Option<Module> {
    let (mut at, mut rest) = match path.first()?.as_str() {
        "crate" => (Module::new(), &path[1..]),
        "self" => (module.clone(), &path[1..]),
        "super" => (module.clone(), path),
        // A path into a child; a single name may be anything.
        _ if path.len() > 1 => (module.clone(), path),
        _ => return None,
    };
    while rest.first().is_some_and(|name| name == "super") {
        at.pop()?;
        rest = &rest[1..];
    }
    for name in rest {
        at.push(name.clone());
        if !all.keys().any(|module| module.starts_with(&at)) {
            at.pop();
            break;
        }
    }
    Some(at)
}

/// The two siblings at which the paths of two modules differ; `None` if one is the other's parent, or they
/// are the same.
fn siblings(ours: &Module, theirs: &Module) -> Option<(Module, Module)> {
    let shared = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let part = |module: &Module| module.get(..=shared).map(<[String]>::to_vec);
    part(ours).zip(part(theirs))
}

/// All modules that `from` imports, and that those import.
fn reached(from: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in imports.get(module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    reached
}
